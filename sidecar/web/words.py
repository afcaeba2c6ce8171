"""Words and figures as HTML: the same everywhere on the page."""

from __future__ import annotations

import html
from datetime import UTC, datetime

from sidecar.checks import FAIL, PASS, WARN, CheckStatus
from sidecar.terminal import printable
from sidecar.web.shapes import public, rfc3339


def text(given: str | None, limit: int = 300, *, tag: bool = True) -> str:
    """Text of unknown origin: no path on disk, one line, at most `limit` characters, its direction its own."""
    safe = html.escape(printable(public(given) or "", limit))
    return f"<bdi>{safe}</bdi>" if tag else safe


def time(at: datetime) -> str:
    """An instant, in UTC, to the second."""
    return f'<time datetime="{rfc3339(at)}">{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC</time>'


def lasting(since: datetime) -> str:
    """How long it has been so: the script's matter, for it changes by the second. Else since when."""
    at = f'<time data-for datetime="{rfc3339(since)}">{since.astimezone(UTC):%H:%M:%S}</time>'
    return f'<span class="for">since {at}</span>'


def ago(at: datetime, seconds: float) -> str:
    """How long ago that was; the script counts on."""
    took = f"{seconds:.0f} s" if seconds < 60 else duration(seconds)
    return f'<time data-ago datetime="{rfc3339(at)}">{took} ago</time>'


def duration(seconds: float) -> str:
    """As much of it as people want to know."""
    if seconds < 10:
        return f"{max(0.1, seconds):.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def value(number: float | None, unit: str | None) -> str:
    """A check's value; empty where it has none."""
    if number is None:
        return ""
    if unit == "seconds":
        return f"{1000 * number:.1f} ms" if number < 1 else f"{number:.1f} s"
    if unit == "bytes":
        return size(number)
    return f"{number:,.0f} {text(unit, 30, tag=False)}"


def size(count: float) -> str:
    """Bytes, in units of powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:,.0f} bytes" if unit == "bytes" else f"{count:.{0 if count >= 100 else 1}f} {unit}"
        count /= 1000
    raise AssertionError


def badge(status: CheckStatus, word: str | None = None) -> str:
    """A verdict, for those who see no colours too; `word` instead of its own."""
    sign = {PASS: "✓", WARN: "!", FAIL: "✕"}[status]
    return f'<span class="badge {status}"><span aria-hidden="true">{sign}</span>{word or status}</span>'
