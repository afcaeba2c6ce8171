"""An id for each request, which its answer and every log line about it carry: a client's or a proxy's, or a new one."""

from __future__ import annotations

import re
from contextvars import ContextVar

HEADER = "X-Request-ID"
"""Where a client or a proxy gives it, and the answer tells it."""

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that is being answered."""

_SANE = re.compile(r"[A-Za-z0-9._:=+/@-]{1,128}", re.ASCII)


def is_sane(given: str) -> bool:
    """Whether a given id can do no harm in a log."""
    return _SANE.fullmatch(given) is not None
