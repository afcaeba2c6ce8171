"""Counts the sidecar's own requests. Labels are of the sidecar's making: no path or method of a client gets through."""

from __future__ import annotations

import time
from collections import Counter

from aiohttp import web
from aiohttp.typedefs import Handler

from sidecar.core.histogram import Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)
"""The bounds of the buckets in which durations are counted."""
UNKNOWN = "unknown"
"""The route of a path that is none of ours."""
_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
_GONE = 499
"""The status of a request whose client went away before its answer, as nginx has it."""


class Requests:
    """All requests so far."""

    def __init__(self) -> None:
        self.answered: Counter[tuple[str, str, int]] = Counter()
        """By route, method (`other` where it is none of HTTP's usual ones) and status."""
        self.durations: dict[str, Histogram] = {}
        """By route; to the end of the handler. Neither streams nor requests whose client left."""

    def add(self, route: str, method: str, status: int, seconds: float | None) -> None:
        """Count one; `seconds` None: how long it took says nothing."""
        self.answered[route, method if method in _METHODS else "other", status] += 1
        if seconds is None:
            return
        if route not in self.durations:
            self.durations[route] = Histogram(SECONDS)
        self.durations[route].observe(seconds)


REQUESTS = web.AppKey("requests", Requests)


@web.middleware
async def counted(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the request; for outside of all other middleware, so that every error is an answer already."""
    began = time.monotonic()
    status, seconds = _GONE, None
    try:
        response = await handler(request)
        status = response.status
        if isinstance(response, web.Response):  # a stream lasts as long as its client likes
            seconds = time.monotonic() - began
        return response
    finally:
        resource = request.match_info.route.resource
        route = UNKNOWN if resource is None else resource.canonical
        request.app[REQUESTS].add(route, request.method, status, seconds)
