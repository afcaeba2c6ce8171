"""A quarter of an hour of one check as a drawing: the values as a line, the verdicts as a strip of steps below it."""

from __future__ import annotations

from sidecar.core import text
from sidecar.core.check import FAIL, PASS, WARN, CheckStatus
from sidecar.core.history import SAMPLES, CheckHistory

_WIDTH, _HEIGHT = 120, 32
"""Of the drawing, in its own units."""
_BOTTOM, _TOP = 18.0, 3.0
"""Where the line of the values may go; what is above is for marks of those that are cut."""
_STEPS = {PASS: 3, WARN: 6, FAIL: 10}
"""How high each verdict's step is, for those who see no colours."""
_CUT = 4.0
"""Of the value that nine in ten stay below: higher ones are cut, so that one doesn't make a flat line of the others."""


def sparkline(trend: CheckHistory) -> str:
    """The drawing, and the most extreme value beside it."""
    if not any(trend.samples):
        return '<span class="none">nothing yet</span>'
    unit, measured = _measured(trend)
    values = [value for value in measured if value is not None]
    line, cut = _line(measured, values) if len(values) > 1 else ("", False)
    return (
        f'<div class="history"><svg class="trend" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none"'
        f' role="img"><title>{_in_words(trend, values, unit, cut=cut)}</title>{line}{_strip(trend)}</svg>'
        f"<span>{_extreme(values, unit)}</span></div>"
    )


def _measured(trend: CheckHistory) -> tuple[str | None, list[float | None]]:
    """The unit of the last value, and all values that have it: a check may measure now this, now that."""
    unit = next((each.unit for each in reversed(trend.samples) if each is not None and each.value is not None), None)
    return unit, [None if each is None or each.unit != unit else each.value for each in trend.samples]


def _strip(trend: CheckHistory) -> str:
    """A rectangle for each stretch of one verdict; a gap where nobody looked."""
    step = _WIDTH / SAMPLES
    stretches: list[tuple[int, int, CheckStatus]] = []
    for place, sample in enumerate(trend.samples):
        if sample is None:
            continue
        if stretches and stretches[-1][1:] == (place, sample.status):
            stretches[-1] = (stretches[-1][0], place + 1, sample.status)
        else:
            stretches.append((place, place + 1, sample.status))
    return "".join(
        f'<rect class="{status}" x="{begin * step:g}" y="{_HEIGHT - _STEPS[status]}"'
        f' width="{(end - begin) * step:g}" height="{_STEPS[status]}"/>'
        for begin, end, status in stretches
    )


def _line(measured: list[float | None], values: list[float]) -> tuple[str, bool]:
    """From 0 up, unless the values lie close together high above it: then it is their changes that matter.

    And whether some of them are cut.
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
        x, y = (place + 0.5) * _WIDTH / SAMPLES, _BOTTOM - (min(value, greatest) - floor) * scale
        commands.append(f"{pen}{x:g} {y:.1f}")
        pen = "L"
        if value > greatest:
            marks.append(f"M{x - 2:g} 2h4")
    cut = f'<path class="cut" d="{"".join(marks)}"/>' if marks else ""
    return f'<path d="{"".join(commands)}"/>{cut}', bool(marks)


def _extreme(values: list[float], unit: str | None) -> str:
    """What matters of the values: of the room that is free the least, of all else the most, where it isn't nothing."""
    if not any(values):
        return ""
    return f"min {text.value(min(values), unit)}" if unit == "bytes" else f"max {text.value(max(values), unit)}"


def _in_words(trend: CheckHistory, values: list[float], unit: str | None, *, cut: bool) -> str:
    seen = [sample.status for sample in trend.samples if sample is not None]
    parts = [f"{word} {seen.count(status)}" for status, word in ((PASS, "pass"), (WARN, "warn"), (FAIL, "fail"))
             if status in seen]  # fmt: skip
    told = f"of {len(seen)} quarter minutes: {', '.join(parts)}"
    if values:
        told += f"; {text.value(min(values), unit)} to {text.value(max(values), unit)}"
    if cut:
        told += ", of which the highest are drawn cut"
    return told
