"""`/metrics`: the metrics of all collectors as Prometheus' text or OpenMetrics, from memory.

The first scrape imports prometheus_client, in a thread: it takes a megabyte and 20 ms, which a container that nobody
scrapes does not pay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import web

from sidecar.web.admin_auth import Guard
from sidecar.web.context import Context
from sidecar.web.metrics.requests import Requests
from sidecar.web.negotiation import quality

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

    async def text(self, accept: str) -> tuple[str, bytes]:
        """Return content type and body: OpenMetrics if this `Accept` prefers it, otherwise Prometheus' text.

        prometheus_client's own `choose_encoder` ignores `q`, and fails on a version that is no number.
        """
        if self._registry is None:
            self._registry = await asyncio.to_thread(self._make)
        from prometheus_client import exposition
        from prometheus_client.openmetrics import exposition as openmetrics

        generate: Callable[[CollectorRegistry, str], bytes]
        if quality(accept, OPENMETRICS) > quality(accept, "text/plain"):
            kind, generate = openmetrics.CONTENT_TYPE_LATEST, openmetrics.generate_latest
        else:
            kind, generate = exposition.CONTENT_TYPE_PLAIN_0_0_4, exposition.generate_latest
        # All names are plain ASCII, so this changes no byte. By default, OpenMetrics escapes names by the character,
        # which takes longer than all the rest.
        return kind, generate(self._registry, openmetrics.ALLOWUTF8)

    def _make(self) -> CollectorRegistry:
        from prometheus_client import CollectorRegistry, ProcessCollector

        from sidecar.web.metrics.devpi import DevpiProcess, FeaturesCollector
        from sidecar.web.metrics.own import SidecarCollector

        registry = CollectorRegistry()
        registry.register(SidecarCollector(self._context, self._guard, self._requests))
        registry.register(FeaturesCollector(self._context))
        ProcessCollector(registry=registry)
        if (child := self._context.child) is not None:
            registry.register(DevpiProcess(child))
        return registry


EXPOSITION = web.AppKey("exposition", Exposition)


async def metrics(request: web.Request) -> web.Response:
    """All metrics, for Prometheus; OpenMetrics by `Accept`.

    200: always.
    """
    kind, body = await request.app[EXPOSITION].text(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": kind})
