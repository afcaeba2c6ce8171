"""Repeated measurements: the ways in turn, in alternating order, each in a fresh folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.report import Result, Series

ROOT = Path(__file__).resolve().parents[1]

Values = Mapping[str, float]
"""The measurements of one run: quantity → number."""
Way = Callable[[Path], Values]
"""Runs one way once, in a fresh folder of its own. Raises `Failed`."""


class Failed(Exception):
    """A failed measurement; the argument is the reason."""


@dataclass(frozen=True)
class Comparison:
    """One entry of the bench."""

    name: str
    title: str
    measure: Callable[[Bench], Result]


class Outcome:
    """The measurements of all rounds of one comparison."""

    def __init__(self) -> None:
        self._runs: dict[str, list[Values | Failed]] = {}

    def add(self, way: str, values: Values | Failed) -> None:
        self._runs.setdefault(way, []).append(values)

    def series(self, way: str, quantity: str) -> Series:
        """Return one quantity over all rounds; a run that failed or lacks it counts as a failure."""
        values: list[float] = []
        failures: list[str] = []
        for run in self._runs.get(way, []):
            if isinstance(run, Failed):
                failures.append(str(run))
            elif quantity not in run:
                failures.append(f"{quantity} was not measured")
            else:
                values.append(run[quantity])
        return Series(tuple(values), tuple(failures))


@dataclass(frozen=True)
class Bench:
    """The settings of one run of the bench."""

    pairs: int
    quick: bool
    home: Path = ROOT / ".bench"
    minutes: float = 60.0
    """Duration of `soak`."""

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / ".gitignore").write_text("*\n")

    @property
    def inputs(self) -> Path:
        """The folder of the inputs, which are kept between runs."""
        return self.home / "inputs"

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """Yield a fresh folder on the project's disk, and remove it afterwards."""
        parent = self.home / "tmp"
        parent.mkdir(exist_ok=True)
        path = Path(tempfile.mkdtemp(dir=parent))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def in_turn(self, ways: Mapping[str, Way], rounds: int | None = None) -> Outcome:
        """Run every way once a round, in reverse order every other round. Before each run, the disk is synced.

        The runs' files are removed after the last one: for some minutes, ext4 reuses no deleted inode and searches
        for another one, so a run would pay for the files of earlier ones.
        """
        outcome = Outcome()
        names = list(ways)
        with self.folder() as home:
            for number in range(rounds or self.pairs):
                for name in names if number % 2 == 0 else reversed(names):
                    os.sync()  # so that writes of the run before don't count
                    folder = home / f"{number}-{name.replace(' ', '-')}"
                    folder.mkdir()
                    values = _run(ways[name], folder)
                    outcome.add(name, values)
                    _say(number + 1, name, values)
        return outcome


def _run(way: Way, folder: Path) -> Values | Failed:
    try:
        return way(folder)
    except Failed as error:
        return error
    except (OSError, ValueError, LookupError) as error:
        return Failed(f"{type(error).__name__}: {error}")


def _say(number: int, name: str, values: Values | Failed) -> None:
    if isinstance(values, Failed):
        said = f"FAILED: {values}"
    else:
        said = ", ".join(f"{quantity} {value:.4g}" for quantity, value in values.items())
    print(f"  {number}. {name}: {said}", file=sys.stderr, flush=True)
