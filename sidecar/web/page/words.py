"""Words and times as HTML: the same everywhere on the page."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime

from sidecar.core import text as figures
from sidecar.core.check import FAIL, PASS, PENDING, WARN, CheckStatus
from sidecar.core.public import public, rfc3339
from sidecar.core.terminal import printable


def text(given: str | None, limit: int = 300, *, tag: bool = True) -> str:
    """Text of unknown origin: no path on disk, one line, at most `limit` characters, its direction its own."""
    safe = html.escape(printable(public(given) or "", limit))
    return f"<bdi>{safe}</bdi>" if tag else safe


def with_code(given: str, limit: int = 2000) -> str:
    """A text of ours with names of unknown origin in it, of which what stands in backticks is code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", text(given, limit))


def time(at: datetime) -> str:
    """An instant, in UTC, to the second."""
    return f'<time datetime="{rfc3339(at)}">{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC</time>'


def lasting(since: datetime) -> str:
    """How long it has been so: the script's matter, for it changes by the second. Else since when."""
    at = f'<time data-for datetime="{rfc3339(since)}">{since.astimezone(UTC):%H:%M:%S}</time>'
    return f'<span class="for">since {at}</span>'


def ago(at: datetime, seconds: float) -> str:
    """How long ago that was; the script counts on."""
    return f'<time data-ago datetime="{rfc3339(at)}">{figures.ago(seconds)}</time>'


def badge(status: CheckStatus, word: str | None = None) -> str:
    """A verdict, for those who see no colours too; `word` instead of its own."""
    sign = {PASS: "✓", PENDING: "…", WARN: "!", FAIL: "✕"}[status]
    return f'<span class="badge {status}"><span aria-hidden="true">{sign}</span>{word or status}</span>'


def commands(*lines: str, label: str) -> str:
    """Commands to be copied, on lines as long as they are: broken within a word they would be copied broken."""
    shown = "\n".join(text(line, 1000, tag=False) for line in lines)
    return (
        '<div class="commands">'
        f'<pre tabindex="0" role="region" aria-label="{label}">{shown}</pre>'
        f'<button type="button" class="plain copy" aria-label="Copy: {label}">Copy</button></div>'
    )
