"""From measured numbers to verdicts, tables and docs/performance.md."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Series:
    """One quantity, measured several times; `failures` are the runs that gave no number, and why."""

    values: tuple[float, ...]
    failures: tuple[str, ...] = ()

    @property
    def failed(self) -> str | None:
        """Why this is no measurement; one failed run spoils all, for the others would be a selection."""
        if self.failures:
            return f"failed in {len(self.failures)} of {len(self.values) + len(self.failures)}: {self.failures[0]}"
        return None if self.values else "not measured"

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def over(self, other: Series) -> Series:
        """This divided by another, round by round; it fails where either does."""
        if failed := self.failed or other.failed:
            return Series((), (failed,))
        return Series(tuple(mine / its for mine, its in zip(self.values, other.values, strict=True)))


@dataclass(frozen=True)
class Reach:
    """A figure to reach, and what has to reach it."""

    of: Literal["ratio", "median", "worst"]
    """The ratio ours / by hand, our median, or our worst run."""
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
    """None: there is no way by hand."""
    ours: Series
    reach: Reach | None = None
    together: bool = False
    """Whether both ways ran at the same time, so that what the machine did then is in both numbers of a pair."""

    @property
    def failed(self) -> str | None:
        return self.ours.failed or (self.by_hand.failed if self.by_hand else None)

    @property
    def ratio(self) -> float | None:
        """Median of ours / median of by hand, or the median of pairs that ran together; None where there is none."""
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
        """`reached`, `**not reached**` with the number, or why that can't be told; empty without a figure."""
        if self.reach is None:
            return ""
        reason = self.ours.failed if self.reach.of != "ratio" else self.failed
        if reason:
            return f"**not shown**: {reason}"
        value = self._judged()
        if value is None:
            return "**not shown**: by hand gave 0"
        if self.reach.met_by(value):
            return "reached"
        return f"**not reached**: {number(value)}"

    def _judged(self) -> float | None:
        assert self.reach is not None
        if self.reach.of == "ratio":
            return self.ratio
        if self.reach.of == "median":
            return self.ours.median
        return max(self.ours.values) if self.reach.relation == "≤" else min(self.ours.values)

    def goal(self) -> str:
        """The figure to reach, in words."""
        if self.reach is None:
            return ""
        what = {"ratio": "ratio", "median": "ours", "worst": "ours, every run"}[self.reach.of]
        unit = f" {self.unit}" if self.reach.of != "ratio" and self.unit else ""
        return f"{what} {self.reach.relation} {number(self.reach.limit)}{unit}"


@dataclass
class Result:
    """What one comparison found out."""

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
    """A result with all that a reader needs to judge it."""

    name: str
    title: str
    environment: dict[str, str]
    result: Result


def _series(data: Mapping[str, Any]) -> Series:
    return Series(tuple(data["values"]), tuple(data["failures"]))


def number(value: float) -> str:
    """Three significant digits, large numbers in full."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.6f}".rstrip("0").rstrip(".")


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of numbers in ascending order; `share` is 0 to 1."""
    if not ordered:
        raise ValueError("no numbers")
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


NONE = "-"
HEADER = ("what", "by hand", "ours", "ratio", "reach", "reached?")


def cells(row: Row) -> tuple[str, ...]:
    """One row as texts, in the order of `HEADER`."""
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
    """For a terminal."""
    lines = [f"{section.name}: {section.title}"]
    for row in section.result.rows:
        what, hand, ours, ratio, goal, verdict = cells(row)
        lines.append(f"  {what}\n      by hand {hand}; ours {ours}; ratio {ratio}")
        if goal:
            lines.append(f"      reach: {goal}: {verdict.replace('*', '')}")
    lines += [f"  note: {note}" for note in section.result.notes]
    return "\n".join(lines)


def as_markdown(sections: Iterable[Section | str]) -> str:
    """docs/performance.md. A section that is text is one of the page as it was."""
    lines = [
        "# Performance",
        "",
        "Written by `python3 dev.py bench --write`; don't edit. The way by hand and ours run in turn on the same",
        "machine, in alternating order, each in a fresh serverdir. Numbers are medians, in brackets the least and the",
        "greatest; the ratio is that of the medians, in brackets those of single pairs. Where both ways ran at the",
        "same time, which the notes then say, it is the median of the pairs'. A measurement that failed in one of its",
        "runs says so, and shows no number.",
    ]
    for section in sections:
        lines += ["", section if isinstance(section, str) else _one_as_markdown(section)]
    return "\n".join(lines) + "\n"


def of_markdown(page: str) -> dict[str, str]:
    """The sections of such a page, by their titles."""
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
