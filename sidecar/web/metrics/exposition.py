"""`/metrics`: the metrics of all collectors as Prometheus' text or OpenMetrics, from memory.

The first scrape imports prometheus_client, in a thread: it takes a megabyte and 20 ms, which a container that nobody
scrapes does not pay.

As long as a format is scraped, the monitor's ticks render it in the background, and a scrape only sends the text, in
1.3 ms (p50, 388 series). A scrape that renders by itself takes 9 ms, and 12 to 20 ms at p99, also without an import.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from sidecar.web.admin_auth import Guard
from sidecar.web.context import Context
from sidecar.web.metrics.requests import Requests
from sidecar.web.negotiation import quality

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

OPENMETRICS = "application/openmetrics-text"
EVERY = 1.5
"""Seconds between two renderings in the background, rounded up to the monitor's ticks, of one a second."""
RECENT = 2.5
"""Seconds after which a text is too old for a scrape, which then renders a new one."""
PATIENCE = 180.0
"""Seconds without a scrape after which the renderings stop: three times Prometheus' default interval."""


class Exposition:
    """All metrics, as text."""

    def __init__(self, context: Context, guard: Guard, requests: Requests) -> None:
        self._context = context
        self._guard = guard
        self._requests = requests
        self._texts: tuple[_Text, ...] = ()
        context.board.on_tick(self._ticked)

    async def text(self, accept: str) -> tuple[str, bytes]:
        """Return content type and body: OpenMetrics if this `Accept` prefers it, otherwise Prometheus' text.

        Phase and status of the checks are current, everything else is at most `RECENT` old. prometheus_client's own
        `choose_encoder` ignores `q`, and fails on a version that is no number.
        """
        if not self._texts:
            self._texts = await asyncio.to_thread(self._make)
        text, openmetrics = self._texts
        wanted = openmetrics if quality(accept, OPENMETRICS) > quality(accept, "text/plain") else text
        wanted.asked = time.monotonic()
        if wanted.asked - wanted.rendered > RECENT or wanted.state != self._state():
            self._render(wanted)
        return wanted.content_type, wanted.body

    def _ticked(self) -> None:
        now = time.monotonic()
        for each in self._texts:
            # After a failure only a scrape tries again, otherwise each tick would log it.
            if EVERY <= now - each.rendered < math.inf and now - each.asked < PATIENCE:
                # Not within the tick: an error here is not the monitor's.
                asyncio.get_running_loop().call_soon(self._render, each)

    def _render(self, text: _Text) -> None:
        text.rendered = -math.inf  # if this fails
        now, text.state = time.monotonic(), self._state()
        text.body = text.generate()
        text.rendered = now

    def _state(self) -> object:
        return self._context.lifecycle.snapshot.phase, [check.status for check in self._context.board.checks()]

    def _make(self) -> tuple[_Text, ...]:
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

        def text(content_type: str, generate: Callable[[Collector, str], bytes]) -> _Text:
            # All names are plain ASCII, so this changes no byte. By default, OpenMetrics escapes names by the
            # character, which takes longer than all the rest.
            return _Text(content_type, partial(generate, registry, openmetrics.ALLOWUTF8))

        return (
            text(exposition.CONTENT_TYPE_PLAIN_0_0_4, exposition.generate_latest),
            text(openmetrics.CONTENT_TYPE_LATEST, openmetrics.generate_latest),
        )


@dataclass
class _Text:
    """The metrics in one format."""

    content_type: str
    generate: Callable[[], bytes]
    body: bytes = b""
    """The last rendering."""
    rendered: float = -math.inf
    """When, on the monotonic clock; minus infinity: never, or the last rendering has failed."""
    state: object = None
    """Phase and status of the checks then."""
    asked: float = -math.inf
    """Time of the last scrape."""


EXPOSITION = web.AppKey("exposition", Exposition)


async def metrics(request: web.Request) -> web.Response:
    """Return all metrics in Prometheus' text format or OpenMetrics, by `Accept`.

    200: always.
    """
    kind, body = await request.app[EXPOSITION].text(request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": kind})
