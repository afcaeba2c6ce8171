"""A quarter of an hour of one check as a drawing: the values as a line, the verdicts as a strip below it."""

from __future__ import annotations

from sidecar.checks import FAIL, PASS, WARN, CheckStatus
from sidecar.trends import SAMPLES, Trend
from sidecar.web import words

_WIDTH, _HEIGHT, _STRIP = 120, 28, 4
"""Of the drawing, in its own units."""


def sparkline(trend: Trend, unit: str | None) -> str:
    """The drawing; `unit`: of the values."""
    seen = [sample for sample in trend.samples if sample is not None]
    if not seen:
        return '<span class="none">nothing yet</span>'
    step = _WIDTH / SAMPLES
    strip = []
    begin = 0
    for place in range(1, SAMPLES + 1):
        here, status = _status(trend, place), _status(trend, begin)
        if place == SAMPLES or here is not status:
            if status is not None:
                x, width = begin * step, (place - begin) * step
                strip.append(f'<rect class="{status}" x="{x:g}" y="{_HEIGHT - _STRIP}" width="{width:g}" height="4"/>')
            begin = place
    values = [sample.value for sample in seen if sample.value is not None]
    line = f'<path d="{_line(trend, min(values), max(values))}"/>' if len(values) > 1 else ""
    return (
        f'<svg class="trend" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img"'
        f' aria-label="{_in_words(trend, values, unit)}"><rect class="track" y="{_HEIGHT - _STRIP}"'
        f' width="{_WIDTH}" height="{_STRIP}"/>{line}{"".join(strip)}</svg>'
    )


def _status(trend: Trend, place: int) -> CheckStatus | None:
    sample = trend.samples[place] if place < SAMPLES else None
    return None if sample is None else sample.status


def _line(trend: Trend, least: float, greatest: float) -> str:
    """From 0 up, unless the values lie close together high above it: then it is their changes that matter."""
    floor = 0.0 if least < greatest / 2 else least - (greatest - least) / 2
    scale = (_HEIGHT - _STRIP - 4) / (greatest - floor or 1)
    commands, pen = [], "M"
    for place, sample in enumerate(trend.samples):
        if sample is None or sample.value is None:
            pen = "M"
            continue
        x, y = (place + 0.5) * _WIDTH / SAMPLES, _HEIGHT - _STRIP - 2 - (sample.value - floor) * scale
        commands.append(f"{pen}{x:g} {y:.1f}")
        pen = "L"
    return "".join(commands)


def _in_words(trend: Trend, values: list[float], unit: str | None) -> str:
    seen = [sample.status for sample in trend.samples if sample is not None]
    parts = [f"{word} {seen.count(status)}" for status, word in ((PASS, "pass"), (WARN, "warn"), (FAIL, "fail"))
             if status in seen]  # fmt: skip
    told = f"of {len(seen)} quarter minutes: {', '.join(parts)}"
    if values:
        told += f"; {words.value(min(values), unit)} to {words.value(max(values), unit)}"
    return words.text(told, tag=False)
