"""`/metrics`: what Prometheus and its like collect, from memory.

prometheus_client is imported with the first scrape, in a thread: it takes a megabyte and some milliseconds, which no
start has to pay, nor who doesn't scrape.

While somebody scrapes, the monitor's ticks render the text, once a second, so that a scrape has but to send it: on
CPUs that an import keeps busy, each millisecond of work may be cut by some of waiting. Without a recent text a scrape
renders its own.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from copy import copy
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

from sidecar.web.admin_auth import Guard
from sidecar.web.context import Context
from sidecar.web.metrics.requests import Requests
from sidecar.web.negotiation import quality

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector
    from prometheus_client.samples import Sample

OPENMETRICS = "application/openmetrics-text"
EVERY = 1.0
"""Seconds between two renderings in the background, …"""
RECENT = 2.0
"""… after which a text is too old to be sent, …"""
PATIENCE = 180.0
"""… and without a scrape after which they end: three times the interval at which Prometheus scrapes by default."""


class Exposition:
    """All metrics, as text."""

    def __init__(self, context: Context, guard: Guard, requests: Requests) -> None:
        self._context = context
        self._guard = guard
        self._requests = requests
        self._made: _Made | None = None
        context.board.on_tick(self._ticked)

    async def text(self, accept: str) -> tuple[str, bytes]:
        """Content type and body, in the format that this `Accept` would rather have: Prometheus' text, if in doubt.

        The phase and the checks' status are told as they are, all else as it was `RECENT` ago at the most.
        """
        if self._made is None:
            self._made = await asyncio.to_thread(self._make)
        made = self._made
        wanted = made.openmetrics if quality(accept, OPENMETRICS) > quality(accept, "text/plain") else made.text
        wanted.asked = time.monotonic()
        if wanted.asked - wanted.rendered > RECENT or wanted.state != self._state():
            self._render(made.registry, wanted)
        return wanted.format.content_type, wanted.body

    def _ticked(self) -> None:
        if self._made is None:
            return
        now = time.monotonic()
        for each in (self._made.text, self._made.openmetrics):
            # what has failed is left to the next scrape: else each tick would fill the log
            if EVERY <= now - each.rendered < math.inf and now - each.asked < PATIENCE:
                # not from inside of the monitor: an error in a rendering is no matter of its
                asyncio.get_running_loop().call_soon(self._render, self._made.registry, each)

    def _render(self, registry: CollectorRegistry, text: _Text) -> None:
        text.rendered = -math.inf  # where this fails
        now, text.state = time.monotonic(), self._state()
        text.body = text.format.render(registry.collect())
        text.rendered = now

    def _state(self) -> object:
        """What no scrape may tell as it was."""
        return self._context.lifecycle.snapshot.phase, [check.status for check in self._context.board.checks()]

    def _make(self) -> _Made:
        from prometheus_client import CollectorRegistry, ProcessCollector, exposition
        from prometheus_client.openmetrics import exposition as openmetrics

        from sidecar.web.metrics.devpi import DevpiProcess, FeaturesCollector
        from sidecar.web.metrics.own import SidecarCollector

        registry = CollectorRegistry()
        registry.register(SidecarCollector(self._context, self._guard, self._requests))
        registry.register(FeaturesCollector(self._context))
        ProcessCollector(registry=registry)
        if (child := self._context.child) is not None:
            registry.register(DevpiProcess(child))
        return _Made(
            registry,
            _Text(_Format(exposition.CONTENT_TYPE_PLAIN_0_0_4, exposition.generate_latest, b"")),
            _Text(_Format(openmetrics.CONTENT_TYPE_LATEST, openmetrics.generate_latest, b"# EOF\n")),
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


class _Text:
    """What is told in one format."""

    def __init__(self, format: _Format) -> None:
        self.format = format
        self.body = b""
        """What was rendered last, …"""
        self.rendered = -math.inf
        """… when, on the monotonic clock (minus infinity: never, or the last try has failed), …"""
        self.state: object = None
        """… and in which state."""
        self.asked = -math.inf
        """When somebody wanted it last."""


class _Made(NamedTuple):
    """What needs the library."""

    registry: CollectorRegistry
    text: _Text
    openmetrics: _Text


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
    """Return all metrics in Prometheus' text format or OpenMetrics, by `Accept`.

    200: always.
    """
    kind, body = await request.app[EXPOSITION].text(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": kind})
