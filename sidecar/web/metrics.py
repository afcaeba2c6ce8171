"""`/metrics`: what Prometheus and its like collect, from memory.

prometheus_client is imported with the first scrape, in a thread: it takes a megabyte and some milliseconds, which no
start has to pay, nor who doesn't scrape.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from sidecar.web.accept import quality
from sidecar.web.guard import Guard
from sidecar.web.keys import Context
from sidecar.web.requests import Requests

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

OPENMETRICS = "application/openmetrics-text"


class Exposition:
    """All metrics, as text."""

    def __init__(self, context: Context, guard: Guard, requests: Requests) -> None:
        self._context = context
        self._guard = guard
        self._requests = requests
        self._registry: CollectorRegistry | None = None

    async def render(self, accept: str) -> tuple[str, bytes]:
        """Content type and body, in the format that this `Accept` would rather have: Prometheus' text, if in doubt."""
        if self._registry is None:
            self._registry = await asyncio.to_thread(self._make_registry)
        from prometheus_client import exposition
        from prometheus_client.openmetrics import exposition as openmetrics

        if quality(accept, OPENMETRICS) > quality(accept, "text/plain"):
            return openmetrics.CONTENT_TYPE_LATEST, openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
        return exposition.CONTENT_TYPE_PLAIN_0_0_4, exposition.generate_latest(self._registry)

    def _make_registry(self) -> CollectorRegistry:
        from prometheus_client import CollectorRegistry, ProcessCollector

        from sidecar.web.devpi_collector import DevpiCollector
        from sidecar.web.sidecar_collector import SidecarCollector

        registry = CollectorRegistry()
        registry.register(SidecarCollector(self._context, self._guard, self._requests))
        registry.register(DevpiCollector(self._context))
        ProcessCollector(registry=registry)
        if (child := self._context.child) is not None:
            ProcessCollector(namespace="devpi_server", pid=lambda: child.pid, registry=registry)
        return registry


EXPOSITION = web.AppKey("exposition", Exposition)


async def metrics(request: web.Request) -> web.Response:
    """All metrics, for Prometheus; OpenMetrics by `Accept`.

    200: always.
    """
    kind, body = await request.app[EXPOSITION].render(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": kind})
