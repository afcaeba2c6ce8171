"""Counters of the sidecar's own requests. No label holds a path or a method as sent by a client."""

from __future__ import annotations

import time
from collections import Counter

from aiohttp import web
from aiohttp.typedefs import Handler

from sidecar.core.histogram import Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)
"""Upper bounds of the buckets for durations."""
UNKNOWN = "unknown"
"""The route of a path that no route matches."""
_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
_GONE = 499
"""The status if the client disconnected before the answer, as in nginx."""


class Requests:
    """Counters of all requests since the start."""

    def __init__(self) -> None:
        self.answered: Counter[tuple[str, str, int]] = Counter()
        """Requests by route, method (`other` if unusual) and status."""
        self.durations: dict[str, Histogram] = {}
        """Durations by route, up to the end of the handler; without streams and requests whose client disconnected."""

    def add(self, route: str, method: str, status: int, seconds: float | None) -> None:
        """Count one request; `seconds` None: without its duration."""
        self.answered[route, method if method in _METHODS else "other", status] += 1
        if seconds is None:
            return
        if route not in self.durations:
            self.durations[route] = Histogram(SECONDS)
        self.durations[route].observe(seconds)


REQUESTS = web.AppKey("requests", Requests)


@web.middleware
async def counted(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the request. This is the outermost middleware, so that errors are already answers."""
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
