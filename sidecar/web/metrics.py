"""`/metrics`: what Prometheus and its like collect, from memory.

prometheus_client is imported with the first scrape, in a thread: it takes a megabyte and some milliseconds, which no
start has to pay, nor who doesn't scrape.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from aiohttp import web

from sidecar.web.accept import quality
from sidecar.web.guard import Guard
from sidecar.web.keys import Context
from sidecar.web.requests import Requests

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

OPENMETRICS = "application/openmetrics-text"


class Exposition:
    """All metrics, as text."""

    def __init__(self, context: Context, guard: Guard, requests: Requests) -> None:
        self._context = context
        self._guard = guard
        self._requests = requests
        self._made: tuple[CollectorRegistry, _Format, _Format] | None = None

    async def render(self, accept: str) -> tuple[str, bytes]:
        """Content type and body, in the format that this `Accept` would rather have: Prometheus' text, if in doubt."""
        if self._made is None:
            self._made = await asyncio.to_thread(self._make)
        registry, text, openmetrics = self._made
        wanted = openmetrics if quality(accept, OPENMETRICS) > quality(accept, "text/plain") else text
        return wanted.content_type, wanted.render(registry.collect())

    def _make(self) -> tuple[CollectorRegistry, _Format, _Format]:
        from prometheus_client import CollectorRegistry, ProcessCollector, exposition
        from prometheus_client.openmetrics import exposition as openmetrics

        from sidecar.web.devpi_collector import DevpiCollector
        from sidecar.web.sidecar_collector import SidecarCollector

        registry = CollectorRegistry()
        registry.register(SidecarCollector(self._context, self._guard, self._requests))
        registry.register(DevpiCollector(self._context))
        ProcessCollector(registry=registry)
        if (child := self._context.child) is not None:
            ProcessCollector(namespace="devpi_server", pid=lambda: child.pid, registry=registry)
        return (
            registry,
            _Format(exposition.CONTENT_TYPE_PLAIN_0_0_4, exposition.generate_latest, b""),
            _Format(openmetrics.CONTENT_TYPE_LATEST, openmetrics.generate_latest, b"# EOF\n"),
        )


class _Format:
    """Renders family by family, and none again that has not changed since the last scrape: most have not."""

    def __init__(self, content_type: str, generate: Callable[[Collector], bytes], end: bytes) -> None:
        """`end`: what `generate` closes with."""
        self.content_type = content_type
        self._generate = generate
        self._end = end
        self._kept: dict[str, tuple[Metric, bytes]] = {}

    def render(self, families: Iterable[Metric]) -> bytes:
        fresh = {}
        for family in families:
            kept = self._kept.get(family.name)
            if kept is None or kept[0] != family:
                kept = family, self._generate(_One(family)).removesuffix(self._end)
            fresh[family.name] = kept
        self._kept = fresh
        return b"".join([*(text for _, text in fresh.values()), self._end])


class _One:
    """A registry of one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


EXPOSITION = web.AppKey("exposition", Exposition)


async def metrics(request: web.Request) -> web.Response:
    """All metrics, for Prometheus; OpenMetrics by `Accept`.

    200: always.
    """
    kind, body = await request.app[EXPOSITION].render(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": kind})
