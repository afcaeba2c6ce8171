"""Verdicts, tables and docs/performance.md from measured numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Series:
    """One quantity, measured several times; `failures` has the reason of each run without a number."""

    values: tuple[float, ...]
    failures: tuple[str, ...] = ()

    @property
    def failed(self) -> str | None:
        """Why this is no measurement. One failed run invalidates all, because the others would be a selection."""
        if self.failures:
            return f"failed in {len(self.failures)} of {len(self.values) + len(self.failures)}: {self.failures[0]}"
        return None if self.values else "not measured"

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def over(self, other: Series) -> Series:
        """Return this divided by `other`, round by round; failed if either is."""
        if failed := self.failed or other.failed:
            return Series((), (failed,))
        return Series(tuple(mine / its for mine, its in zip(self.values, other.values, strict=True)))


@dataclass(frozen=True)
class Reach:
    """A target, and the value that has to meet it."""

    of: Literal["ratio", "median", "worst"]
    """The ratio devpi-sidecar / plain devpi-server, or devpi-sidecar's median or worst run."""
    relation: Literal["≤", "≥"]
    limit: float

    def met_by(self, value: float) -> bool:
        return value <= self.limit if self.relation == "≤" else value >= self.limit


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    what: str
    unit: str
    by_hand: Series | None
    """Of plain devpi-server; None: it has no such value."""
    ours: Series
    reach: Reach | None = None
    together: bool = False
    """Whether both ran at the same time, so that both numbers of a pair see the same load of the machine."""

    @property
    def failed(self) -> str | None:
        return self.ours.failed or (self.by_hand.failed if self.by_hand else None)

    @property
    def ratio(self) -> float | None:
        """Median / median, or the median of the pairs if both ran together; None if there is none."""
        if self.by_hand is None or self.failed or not self.by_hand.median:
            return None
        if self.together:
            return statistics.median(self.ratios)
        return self.ours.median / self.by_hand.median

    @property
    def ratios(self) -> tuple[float, ...]:
        """The ratio of each pair."""
        if self.by_hand is None or self.failed:
            return ()
        return tuple(ours / hand for ours, hand in zip(self.ours.values, self.by_hand.values, strict=False) if hand)

    def verdict(self) -> str:
        """Return `met`, `**not met**` with the number, or why it is unknown; empty without a target."""
        if self.reach is None:
            return ""
        reason = self.ours.failed if self.reach.of != "ratio" else self.failed
        if reason:
            return f"**not measured**: {reason}"
        value = self._judged()
        if value is None:
            return "**not measured**: plain devpi-server has 0"
        if self.reach.met_by(value):
            return "met"
        return f"**not met**: {number(value)}"

    def _judged(self) -> float | None:
        assert self.reach is not None
        if self.reach.of == "ratio":
            return self.ratio
        if self.reach.of == "median":
            return self.ours.median
        return max(self.ours.values) if self.reach.relation == "≤" else min(self.ours.values)

    def goal(self) -> str:
        """Return the target as text."""
        if self.reach is None:
            return ""
        what = {"ratio": "ratio", "median": "median", "worst": "every run"}[self.reach.of]
        unit = f" {self.unit}" if self.reach.of != "ratio" and self.unit else ""
        return f"{what} {self.reach.relation} {number(self.reach.limit)}{unit}"


@dataclass
class Result:
    """The result of one comparison."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    plots: dict[str, str] = field(default_factory=dict)
    """File name → SVG."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        rows = [
            Row(
                row["what"],
                row["unit"],
                _series(row["by_hand"]) if row["by_hand"] else None,
                _series(row["ours"]),
                Reach(**row["reach"]) if row["reach"] else None,
                row.get("together", False),  # an earlier bench kept none
            )
            for row in data["rows"]
        ]
        return cls(rows, list(data["notes"]), dict(data["plots"]))


@dataclass(frozen=True)
class Section:
    """A result with its environment."""

    name: str
    title: str
    environment: dict[str, str]
    result: Result


def _series(data: Mapping[str, Any]) -> Series:
    return Series(tuple(data["values"]), tuple(data["failures"]))


def number(value: float) -> str:
    """Format with three significant digits; large numbers in full."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.6f}".rstrip("0").rstrip(".")


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of numbers in ascending order; `share` is 0 to 1."""
    if not ordered:
        raise ValueError("no numbers")
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


NONE = "-"
HEADER = ("what", "plain devpi-server", "devpi-sidecar", "ratio", "target", "met?")


def cells(row: Row) -> tuple[str, ...]:
    """Return one row as texts, in the order of `HEADER`."""
    hand = NONE if row.by_hand is None else _spread(row.by_hand, row.unit)
    ratio = NONE
    if row.ratio is not None:
        ratio = number(row.ratio)
        if len(row.ratios) > 1:
            ratio += f" ({number(min(row.ratios))} to {number(max(row.ratios))})"
    return row.what, hand, _spread(row.ours, row.unit), ratio, row.goal(), row.verdict()


def _spread(series: Series, unit: str) -> str:
    if series.failed:
        return series.failed
    text = f"{number(series.median)} {unit}".strip()
    if len(series.values) > 1:
        text += f" ({number(min(series.values))} to {number(max(series.values))})"
    return text


def as_text(section: Section) -> str:
    """Return a section for a terminal."""
    lines = [f"{section.name}: {section.title}"]
    for row in section.result.rows:
        what, hand, ours, ratio, goal, verdict = cells(row)
        lines.append(f"  {what}\n      plain devpi-server {hand}; devpi-sidecar {ours}; ratio {ratio}")
        if goal:
            lines.append(f"      target: {goal}: {verdict.replace('*', '')}")
    lines += [f"  note: {note}" for note in section.result.notes]
    return "\n".join(lines)


def as_markdown(sections: Iterable[Section | str]) -> str:
    """Return docs/performance.md; a section that is a `str` is kept as it was."""
    lines = [
        "# Performance",
        "",
        "Written by `just bench --write`; don't edit. Plain devpi-server and devpi-sidecar run in turn",
        "on the same machine, in alternating order, each in a fresh serverdir. Numbers are medians, with minimum",
        "and maximum in brackets; the ratio is that of the medians, with those of single pairs in brackets. If",
        "both ran at the same time, as stated in the notes, it is the median of the pairs. Targets apply to the",
        "ratio, or to devpi-sidecar: its median, or every run. If one run of a measurement failed, the table says",
        "so and shows no number.",
    ]
    for section in sections:
        lines += ["", section if isinstance(section, str) else _one_as_markdown(section)]
    return "\n".join(lines) + "\n"


def of_markdown(page: str) -> dict[str, str]:
    """Return the sections of such a page by title."""
    texts = [f"## {part.strip()}" for part in page.split("\n## ")[1:]]
    return {text.splitlines()[0].removeprefix("## "): text for text in texts}


def _one_as_markdown(section: Section) -> str:
    lines = [f"## {section.title}", "", *_environment(section), "", _line(HEADER), _line(["---"] * len(HEADER))]
    lines += [_line(cells(row)) for row in section.result.rows]
    for name in section.result.plots:
        lines += ["", f"![{section.title}](img/{name})"]
    if section.result.notes:
        lines += ["", *(f"- {note}" for note in section.result.notes)]
    return "\n".join(lines)


def _environment(section: Section) -> list[str]:
    return [f"<sub>{'; '.join(f'{name} {value}' for name, value in section.environment.items())}</sub>"]


def _line(texts: Iterable[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in texts) + " |"
