"""`/metrics`: what Prometheus and its like collect, from memory.

prometheus_client is imported with the first scrape, in a thread: it takes a megabyte and some milliseconds, which no
start has to pay, nor who doesn't scrape.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from copy import copy
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

from sidecar.web.accept import quality
from sidecar.web.guard import Guard
from sidecar.web.keys import Context
from sidecar.web.requests import Requests

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector
    from prometheus_client.samples import Sample

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
    """One format. The library words each line once; from then on its value alone is new, if it is."""

    def __init__(self, content_type: str, generate: Callable[[Collector], bytes], end: bytes) -> None:
        """`end`: what `generate` closes with."""
        from prometheus_client.utils import floatToGoString

        self.content_type = content_type
        self._generate = generate
        self._end = end
        self._number: Callable[[float], str] = floatToGoString
        self._kept: dict[str, _Rendered] = {}

    def render(self, families: Iterable[Metric]) -> bytes:
        fresh = {family.name: self._rendered(family) for family in families}
        self._kept = fresh
        return "".join(each.text for each in fresh.values()).encode() + self._end

    def _rendered(self, family: Metric) -> _Rendered:
        before = self._kept.get(family.name)
        if before is not None and before.family == family:
            return before
        starts = {} if before is None else before.starts
        lines = [self._head(family) if before is None else before.head]
        fresh = {}
        for sample in family.samples:
            key = (sample.name, *sample.labels.values())
            start = fresh[key] = starts.get(key) or self._start(family, sample)
            lines.append(f"{start} {self._number(sample.value)}\n")
        return _Rendered(family, "".join(lines), lines[0], fresh)

    def _head(self, family: Metric) -> str:
        return self._by_library(family, [])

    def _start(self, family: Metric, sample: Sample) -> str:
        """A sample's line up to its value."""
        return self._by_library(family, [sample]).rstrip("\n").rpartition("\n")[2].rpartition(" ")[0]

    def _by_library(self, family: Metric, samples: list[Sample]) -> str:
        part = copy(family)
        part.samples = samples
        return self._generate(_One(part)).removesuffix(self._end).decode()


class _Rendered(NamedTuple):
    """A family as it was rendered last."""

    family: Metric
    text: str
    head: str
    starts: dict[tuple[str, ...], str]
    """By a sample's name and its labels' values."""


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
