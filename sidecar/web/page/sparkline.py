"""A quarter of an hour of one check as a drawing: a line of the values, and below it a strip of the verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from sidecar.core import text
from sidecar.core.check import FAIL, PASS, WARN, CheckStatus
from sidecar.core.history import SAMPLES, CheckHistory

_WIDTH, _HEIGHT = 120, 32
"""Of the drawing, in its own units; `sparkline.html` has them too."""
_BOTTOM, _TOP = 18.0, 3.0
"""The lowest and highest place of the line; above it are the marks of values that are cut."""
_STEPS = {PASS: 3, WARN: 6, FAIL: 10}
"""The height of each verdict, for readers who see no colours."""
_CUT = 4.0
"""Values above this multiple of the 90th percentile are cut, so that one outlier doesn't flatten the rest."""
_X = [(place + 0.5) * _WIDTH / SAMPLES for place in range(SAMPLES)]
_XS = [f"{x:g}" for x in _X]
_EDGES = [f"{place * _WIDTH / SAMPLES:g}" for place in range(SAMPLES + 1)]


class Drawing(NamedTuple):
    """What `sparkline.html` draws."""

    words: str
    """For screen readers."""
    line: str
    cut: str
    """The marks of values that are cut."""
    strip: tuple[tuple[CheckStatus, str, int, str, int], ...]
    """Class, x, y, width and height of each rectangle."""
    extreme: str
    """The value to show beside the drawing."""


def draw(trend: CheckHistory) -> Drawing | None:
    """Return the drawing; None without samples."""
    samples = trend.samples
    if not any(samples):
        return None
    # a check may change what it measures: only values in the unit of the last one are shown
    unit = next((each.unit for each in reversed(samples) if each is not None and each.value is not None), None)
    measured = [None if each is None or each.unit != unit else each.value for each in samples]
    values = [value for value in measured if value is not None]
    line, cut = _line(measured, values) if len(values) > 1 else ("", "")
    verdicts = [None if each is None else each.status for each in samples]
    words = _in_words(verdicts, values, unit, cut=bool(cut))
    return Drawing(words, line, cut, tuple(_strip(verdicts)), _extreme(values, unit))


def _strip(verdicts: list[CheckStatus | None]) -> Iterator[tuple[CheckStatus, str, int, str, int]]:
    """Yield a rectangle for each run of one verdict; nothing where there are no samples."""
    begin = 0
    for status, run in groupby(verdicts):
        length = len(list(run))
        if status is not None:
            yield status, _EDGES[begin], _HEIGHT - _STEPS[status], _EDGES[length], _STEPS[status]
        begin += length


def _line(measured: list[float | None], values: list[float]) -> tuple[str, str]:
    """Return the paths of the line and of the marks of values that are cut.

    The line begins at 0, unless all values are close together far above 0: then their changes matter.
    """
    usual = sorted(values)[int(0.9 * (len(values) - 1))]
    greatest = min(max(values), _CUT * usual) if usual > 0 else max(values)
    least = min(values)
    floor = 0.0 if least < greatest / 2 else least - (greatest - least) / 2
    scale = (_BOTTOM - _TOP) / (greatest - floor or 1)
    commands, marks, pen = [], [], "M"
    for place, value in enumerate(measured):
        if value is None:
            pen = "M"
            continue
        if value > greatest:
            marks.append(f"M{_X[place] - 2:g} 2h4")
        commands.append(f"{pen}{_XS[place]} {_BOTTOM - (min(value, greatest) - floor) * scale:.1f}")
        pen = "L"
    return "".join(commands), "".join(marks)


def _extreme(values: list[float], unit: str | None) -> str:
    """Return the least of free space, the greatest of anything else, and nothing if all are 0."""
    if not any(values):
        return ""
    return f"min {text.value(min(values), unit)}" if unit == "bytes" else f"max {text.value(max(values), unit)}"


def _in_words(verdicts: list[CheckStatus | None], values: list[float], unit: str | None, *, cut: bool) -> str:
    counts = {status: verdicts.count(status) for status in _STEPS}
    parts = [f"{status} {count}" for status, count in counts.items() if count]
    told = f"{sum(counts.values())} quarter minutes: {', '.join(parts)}"
    if values:
        told += f"; {text.value(min(values), unit)} to {text.value(max(values), unit)}"
    if cut:
        told += ", the highest are cut off"
    return told
