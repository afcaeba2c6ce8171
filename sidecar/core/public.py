"""Values for anonymous clients: texts without paths on disk, and times in JSON."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_ROUTES = r"/(?!(?:bootstrap|status|readyz|health)\b)"
_QUOTED_PATH = re.compile(rf"(['\"`]){_ROUTES}[^'\"`]*\1")
_PATH = re.compile(rf"(?<![^\s(\[=:,])(?<!:(?=//)){_ROUTES}[^\s'\"`()\[\],;]+")


def public(text: str | None) -> str | None:
    """`text` with its absolute paths replaced by `<path>`. The log has them."""
    return None if text is None else _PATH.sub("<path>", _QUOTED_PATH.sub("<path>", text))


def rfc3339(at: datetime | None) -> str | None:
    """A time in UTC, to the millisecond, as `2026-11-22T10:20:30.456Z`."""
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
