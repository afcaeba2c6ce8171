"""Line plots as SVG, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bench.report import number

_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 20, 58, 56
_COLOURS = ("#b3541e", "#1e6fb3", "#3c8a4f", "#7a4fa3")


@dataclass(frozen=True)
class Line:
    """One line of a plot; `low` and `high` are minimum and maximum at each point."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def plot(title: str, x_label: str, y_label: str, lines: Sequence[Line]) -> str:
    """Return a plot with both axes from 0."""
    right = max((x for line in lines for x in line.xs), default=1) or 1
    top = _round_up(max((y for line in lines for y in (*line.ys, *line.high)), default=1) or 1)

    def x_of(x: float) -> float:
        return _LEFT + x / right * (_WIDTH - _LEFT - _RIGHT)

    def y_of(y: float) -> float:
        return _HEIGHT - _BOTTOM - y / top * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        _text(_LEFT, 20, title, "start", ' font-weight="bold"'),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, x_label, "middle"),
        _text(_LEFT - 60, _TOP - 14, y_label, "start"),
    ]
    for step in range(5):
        y = top * step / 4
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y_of(y):.1f}" y2="{y_of(y):.1f}" '
            f'stroke="{"#444" if step == 0 else "#ddd"}"/>'
        )
        parts.append(_text(_LEFT - 6, y_of(y) + 4, number(y), "end"))
    for x in sorted({x for line in lines for x in line.xs}):
        parts.append(_text(x_of(x), _HEIGHT - _BOTTOM + 18, number(x), "middle"))
    for index, line in enumerate(lines):
        colour = _COLOURS[index % len(_COLOURS)]
        points = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in zip(line.xs, line.ys, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y in zip(line.xs, line.ys, strict=True):
            parts.append(f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3.5" fill="{colour}"/>')
        for x, low, high in zip(line.xs, line.low, line.high, strict=False):
            parts.append(
                f'<line x1="{x_of(x):.1f}" x2="{x_of(x):.1f}" y1="{y_of(low):.1f}" y2="{y_of(high):.1f}" '
                f'stroke="{colour}"/>'
            )
        left = _LEFT + 12 + index * 150
        parts.append(f'<rect x="{left}" y="{_TOP - 20}" width="12" height="4" fill="{colour}"/>')
        parts.append(_text(left + 18, _TOP - 14, line.name, "start"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#222"{more}>{escape(text)}</text>'


def _round_up(value: float) -> float:
    """Return the next 1, 2, 4 or 8 times a power of ten, so that quarters of it are short numbers."""
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value:
        power /= 10
    return next(step * power for step in (1, 2, 4, 8, 10) if step * power >= value)
