"""Durations, sizes and values in readable units, for the page and the terminal."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A duration in one or two units."""
    if seconds < 10:
        return f"{max(0.1, seconds):.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def ago(seconds: float) -> str:
    """A time in the past, to the second."""
    return f"{seconds:.0f} s ago" if seconds < 60 else f"{duration(seconds)} ago"


def value(number: float | None, unit: str | None) -> str:
    """A check's value; empty without one."""
    if number is None:
        return ""
    if unit == "seconds":
        return f"{1000 * number:.1f} ms" if number < 1 else f"{number:.1f} s"
    if unit == "bytes":
        return size(number)
    return f"{number:,.0f} {(unit or '').removesuffix('s' if number == 1 else '')}".rstrip()


def size(count: float) -> str:
    """Bytes, in units of powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:,.0f} bytes" if unit == "bytes" else f"{count:.{0 if count >= 100 else 1}f} {unit}"
        count /= 1000
    raise AssertionError
