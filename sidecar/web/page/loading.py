"""Imports what renders pages, with the first one: neither the start nor a probe waits for it."""

from __future__ import annotations

import asyncio
from functools import cache


async def load() -> None:
    """Import Jinja2 and compile the templates, in a thread: that takes about 0.2 s. Later calls do nothing."""
    if not _load.cache_info().currsize:
        await asyncio.to_thread(_load)


@cache
def _load() -> None:
    from sidecar.web.page import report  # noqa: F401
