"""Text and times as the templates show them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from sidecar.core.public import public
from sidecar.core.terminal import printable


def plain(given: str | None, limit: int = 300) -> str:
    """Return text of unknown origin without paths on disk, on one line, with at most `limit` characters."""
    return printable(public(given) or "", limit)


def coded(given: str | None, limit: int = 2000) -> list[tuple[str, str]]:
    """Return text of unknown origin as `marked` does."""
    return marked(plain(given, limit))


def marked(text: str) -> list[tuple[str, str]]:
    """Return pairs of text and the code in backticks that follows it."""
    parts = [*re.split("`([^`]+)`", text), ""]
    return list(zip(parts[::2], parts[1::2], strict=True))


def number(of: int) -> str:
    """Return a number with commas between thousands."""
    return f"{of:,}"


def utc(at: datetime) -> str:
    """Return date and time in UTC, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def clock(at: datetime) -> str:
    """Return the time of day in UTC."""
    return f"{at.astimezone(UTC):%H:%M:%S}"
