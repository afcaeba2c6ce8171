"""How measurements are repeated: the ways in turn, in alternating order, each in a fresh folder."""

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
"""What one run of one way measured: quantity → number."""
Way = Callable[[Path], Values]
"""Runs one way once, in a fresh folder of its own. Raises `Failed`."""


class Failed(Exception):
    """A measurement that could not be made; the argument says why."""


@dataclass(frozen=True)
class Comparison:
    """One entry of the bench."""

    name: str
    title: str
    measure: Callable[[Bench], Result]


class Outcome:
    """What all the rounds of one comparison measured."""

    def __init__(self) -> None:
        self._runs: dict[str, list[Values | Failed]] = {}

    def add(self, way: str, values: Values | Failed) -> None:
        self._runs.setdefault(way, []).append(values)

    def series(self, way: str, quantity: str) -> Series:
        """One quantity over all rounds. A run that failed, or did not give it, is a failure in it."""
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
    """Of a load that lasts."""

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / ".gitignore").write_text("*\n")

    @property
    def inputs(self) -> Path:
        """Where inputs are kept between runs; nothing else is."""
        return self.home / "inputs"

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """A fresh folder on the project's disk, whose content is gone afterwards."""
        parent = self.home / "tmp"
        parent.mkdir(exist_ok=True)
        path = Path(tempfile.mkdtemp(dir=parent))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def in_turn(self, ways: Mapping[str, Way], rounds: int | None = None) -> Outcome:
        """Run every way once a round; every other round backwards. The disk is quiet before each run.

        What the runs leave is removed after the last: for some minutes ext4 gives out no inode that was deleted,
        and seeks another one by one, so that a run would pay for the files of those before it.
        """
        outcome = Outcome()
        names = list(ways)
        with self.folder() as home:
            for number in range(rounds or self.pairs):
                for name in names if number % 2 == 0 else reversed(names):
                    os.sync()  # what the run before has left to write is not this one's
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
