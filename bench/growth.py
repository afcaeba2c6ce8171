"""Does an import slow down as it grows? `growth`, with plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench import inputs
from bench.imports import BULK, BY_HAND, OURS, tree_by_hand, tree_ours
from bench.inputs import Spec
from bench.report import Reach, Result, Row, Series
from bench.rounds import Bench, Comparison, Outcome, Way
from bench.svg import Line, plot

_WHILE_IMPORTING = "rate while importing"


class _Grown:
    """Exports of several sizes, imported both ways; a round has all sizes, so that all see the same load."""

    def __init__(self, bench: Bench, specs: Sequence[Spec]) -> None:
        self.specs = specs
        ways: dict[str, Way] = {}
        for spec in specs:
            export = inputs.export(bench.inputs, spec)
            ways[self._name(BY_HAND, spec)] = tree_by_hand(export, sample=False)
            ways[self._name(OURS, spec)] = tree_ours(export, sample=False)
        self._outcome: Outcome = bench.in_turn(ways)

    def series(self, way: str, spec: Spec, quantity: str) -> Series:
        return self._outcome.series(self._name(way, spec), quantity)

    def row(self, spec: Spec, what: str, unit: str, quantity: str) -> Row:
        return Row(what, unit, self.series(BY_HAND, spec, quantity), self.series(OURS, spec, quantity))

    def plot(self, title: str, x_label: str, x_of: Callable[[Spec], int], unit: str, quantity: str) -> str:
        """Plot a line for each way with a measurement of every size."""
        lines = []
        for way in (BY_HAND, OURS):
            series = [self.series(way, spec, quantity) for spec in self.specs]
            if any(each.failed for each in series):
                title += f" ({way}: failed)"
                continue
            lows, highs = [min(each.values) for each in series], [max(each.values) for each in series]
            lines.append(Line(way, [x_of(spec) for spec in self.specs], [each.median for each in series], lows, highs))
        return plot(title, x_label, unit, lines)

    @staticmethod
    def _name(way: str, spec: Spec) -> str:
        return f"{way}, {spec.projects:,} projects, {spec.files:,} files"


def growth(bench: Bench) -> Result:
    """Does it slow down as it grows?"""
    sizes = (100, 200, 400) if bench.quick else (500, 2000, 8000)
    counts = (50, 100, 200) if bench.quick else (100, 1000, BULK)
    files = _Grown(bench, [Spec(size // 4, size) for size in sizes])
    projects = _Grown(bench, [Spec(count, count, indexes=1) for count in counts])
    rows: list[Row] = []
    for spec in files.specs:
        rows.append(
            files.row(spec, f"{spec.files:,} files in {spec.projects:,} projects, 4 indexes", "files/s", "rate")
        )
        importing = files.series(OURS, spec, _WHILE_IMPORTING)
        rows.append(Row(f"{spec.files:,} files, while importing", "files/s", None, importing))
    for spec in projects.specs:
        rows.append(projects.row(spec, f"{spec.projects:,} projects of one file in one index", "s", "seconds"))
        rows.append(projects.row(spec, f"{spec.projects:,} projects: .sqlite", "MiB", "sqlite"))
    small, large = files.specs[0], files.specs[-1]
    steady = files.series(OURS, large, _WHILE_IMPORTING).over(files.series(OURS, small, _WHILE_IMPORTING))
    what = f"files/s at {large.files:,} files ÷ files/s at {small.files:,}, while importing"
    rows.append(Row(what, "", None, steady, Reach("median", "≥", 0.85)))
    title = "Import of projects with one file each into one index"
    in_the_index = "projects in the index"
    return Result(
        rows,
        [
            "Plain devpi-server: `devpi-import` of an unpacked export, from its start to its exit. devpi-sidecar: the "
            "same directory in DEVPI_INIT_DIR, from the start until `/readyz` answers 200, including the sidecar's "
            "and devpi-server's start.",
            "“While importing”: by the times in `/status`, without those starts, which would favour the larger sizes.",
        ],
        {
            "import-files.svg": files.plot(
                "Files per second, by size of the export", "files", lambda spec: spec.files, "files/s", "rate"
            ),
            "import-projects.svg": projects.plot(title, in_the_index, lambda spec: spec.projects, "s", "seconds"),
            "import-sqlite.svg": projects.plot(
                "Size of .sqlite afterwards", in_the_index, lambda spec: spec.projects, "MiB", "sqlite"
            ),
        },
    )


COMPARISONS = (Comparison("growth", "Import by size", growth),)
