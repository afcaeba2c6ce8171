"""The id of a request, in its answer and in all its log lines: from the client or a proxy, or a new one."""

from __future__ import annotations

import re
from contextvars import ContextVar

HEADER = "X-Request-ID"
"""The header of the request and of the answer that contains the id."""

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that is being answered."""

_SANE = re.compile(r"[A-Za-z0-9._:=+/@-]{1,128}", re.ASCII)


def is_sane(given: str) -> bool:
    """Whether a client's id is safe in a log."""
    return _SANE.fullmatch(given) is not None
