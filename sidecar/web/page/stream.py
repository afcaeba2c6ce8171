"""`/events`: changes of the page as server-sent events, for a bounded number of browsers.

The monitor's ticks and the lifecycle's changes drive it. Each section of the page is rendered once for all streams. A
stream holds at most one unsent version of each section: a slow client misses versions, and takes no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from aiohttp import web

from sidecar.core.lifecycle import Snapshot, now
from sidecar.core.public import rfc3339
from sidecar.web.context import Context
from sidecar.web.page import assets
from sidecar.web.problems import Problem

if TYPE_CHECKING:
    from sidecar.web.page.report import View

MOST = 200
"""Streams that may be open, unless something else bounds them."""
PULSE = 15.0
"""Seconds after which a stream sends something at the latest: the checks' new values, or a pulse."""
GAP = 0.25
"""Least seconds between two changes that are sent, unless the phase changes."""
PATIENCE = 10.0
"""Seconds within which a client must read what was sent."""
_RETRY_MS = 1000
_SEND_BYTES = 64 * 1024
"""Size of the kernel's send buffer for a stream, which otherwise grows to megabytes."""
_GONE_SECONDS = 60
"""Seconds after which the kernel drops a client whose machine or network failed."""


class Stream:
    """What is still to be sent to one browser."""

    def __init__(self, host: str) -> None:
        self.host = host
        """The name of this server in its request."""
        self.own: dict[str, str] = {}
        """The sections that depend on that name."""
        self.pending: dict[str, bytes] = {}
        self.wake = asyncio.Event()

    def put(self, name: str, event: bytes) -> None:
        """Send this, instead of an older version of the same."""
        self.pending.pop(name, None)
        self.pending[name] = event
        self.wake.set()

    def take(self) -> bytes:
        """Return what is to be sent now."""
        self.wake.clear()
        taken = b"".join(self.pending.values())
        self.pending.clear()
        return taken


class Hub:
    """All streams, and what was sent to them. Lives on the event loop."""

    def __init__(self, context: Context) -> None:
        self.epoch = secrets.token_hex(4)
        """Differs after each start of the sidecar."""
        self.closed = False
        self.most = MOST
        self._context = context
        self._streams: set[Stream] = set()
        self._number = 0
        self._sections: dict[str, str] = {}
        self._seen: object = None
        self._reported = 0.0
        self._later: asyncio.TimerHandle | None = None
        self._all_gone = asyncio.Event()
        self._loading: asyncio.Task[None] | None = None
        context.lifecycle.subscribe(self._lived)
        context.board.on_tick(self._ticked)
        context.board.on_change(self._changed)

    def __len__(self) -> int:
        return len(self._streams)

    async def load(self) -> None:
        """Import what renders pages, once, in a thread: Jinja2 and the templates take 0.2 s. Callers stay in order.

        After a failure, for example for lack of descriptors, the next call tries again.
        """
        loading = self._loading
        if loading is None or (loading.done() and (loading.cancelled() or loading.exception())):
            loading = self._loading = asyncio.ensure_future(asyncio.to_thread(_load))
        await asyncio.shield(loading)

    @contextlib.contextmanager
    def join(self, host: str, last_event_id: str | None) -> Iterator[Stream]:
        """Open a stream, and send what its page may have missed. Raises `Problem`."""
        if len(self._streams) >= self.most or self.closed:
            detail = f"{self.most} pages are open, the maximum; close one and reload this page"
            raise Problem(503, "too many streams", detail, name="too-many-streams", headers={"Retry-After": "30"})
        if not self._streams:
            self._send()
        stream = Stream(host)
        stream.put("hello", self._hello())
        if last_event_id != self._id:
            for name, section in self._sections.items():
                stream.put(name, _event(name, section))
            self._send_own(stream, self._view())
            stream.put("id", self._id_event())
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.discard(stream)
            if not self._streams:
                self._all_gone.set()

    async def close(self) -> None:
        """Send what is still unsent, and end all streams."""
        self.closed = True
        if self._later is not None:
            self._send()
        self._all_gone.clear()
        for stream in self._streams:
            stream.wake.set()
        if self._streams:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE):
                    await self._all_gone.wait()

    # --- when to send -------------------------------------------------------------------------------------------

    def _lived(self, before: Snapshot, after: Snapshot) -> None:
        if self._streams and not self.closed:
            self._send_in(0 if before.phase is not after.phase else self._reported + GAP - time.monotonic())

    def _changed(self) -> None:
        if self._streams and not self.closed:
            self._send_in(self._reported + GAP - time.monotonic())

    def _ticked(self) -> None:
        if not self._streams or self.closed:
            return
        since = time.monotonic() - self._reported
        if since >= PULSE:
            self._send_in(0)
        elif self._key() != self._seen:
            self._send_in(GAP - since)

    def _key(self) -> object:
        """Return what is sent at once if it changes; the checks' figures can wait for the next pulse."""
        return [check.gist for check in self._context.board.checks()]

    def _send_in(self, seconds: float) -> None:
        """Send later, not inside of the caller: an error in a rendering must not reach it."""
        if self._later is not None and seconds > 0:
            return
        if self._later is not None:
            self._later.cancel()
        self._later = asyncio.get_running_loop().call_later(seconds, self._send)

    # --- what to send -------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Send to all streams what has changed since the last time."""
        from sidecar.web.page import report

        if self._later is not None:
            self._later.cancel()
            self._later = None
        self._reported = time.monotonic()
        self._seen = self._key()
        view = self._view()
        sections = report.sections(view)
        changed = {
            name: _event(name, section) for name, section in sections.items() if self._sections.get(name) != section
        }
        self._sections = sections
        if changed:
            self._number += 1
            changed["id"] = self._id_event()
        for stream in self._streams:
            for name, event in (changed or _NOTHING_NEW).items():
                stream.put(name, event)
            self._send_own(stream, view)

    def _send_own(self, stream: Stream, view: View) -> None:
        from sidecar.web.page import report

        for name, section in report.sections_for(view, stream.host).items():
            if stream.own.get(name) != section:
                stream.own[name] = section
                stream.put(name, _event(name, section))

    def _view(self) -> View:
        from sidecar.web.page import report

        return report.view(self._context)

    @property
    def _id(self) -> str:
        return f"{self.epoch}-{self._number}"

    def _id_event(self) -> bytes:
        return b"id: %b\n\n" % self._id.encode()

    def _hello(self) -> bytes:
        data = json.dumps({"epoch": self.epoch, "edition": assets.edition(), "now": rfc3339(now())})
        return b"retry: %d\nevent: hello\ndata: %b\n\n" % (_RETRY_MS, data.encode())


HUB = web.AppKey("hub", Hub)

_NOTHING_NEW = {"pulse": b"event: pulse\ndata:\n\n"}
"""Shows a page that the stream is alive: a browser doesn't pass comments to scripts."""
_GOODBYE = 0.3
"""Seconds in which the streams may send their last events when the sidecar stops."""


async def events(request: web.Request) -> web.StreamResponse:
    """Stream changes of the page as server-sent events.

    200: until the client or the sidecar ends the stream. 503: too many are open already, with Retry-After.
    """
    hub = request.app[HUB]
    headers = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    if request.method == "HEAD":
        return response
    await hub.load()
    with hub.join(request.host[:300], request.headers.get("Last-Event-ID")) as stream:
        await response.prepare(request)
        _limit(request.transport)
        try:
            while not hub.closed or stream.pending:
                await stream.wake.wait()
                if taken := stream.take():
                    async with asyncio.timeout(PATIENCE):
                        await response.write(taken)
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()
    return response


def _load() -> None:
    from sidecar.web.page import report  # noqa: F401


def _limit(transport: asyncio.Transport | None) -> None:
    """Limit how much the kernel holds for a client, and for how long."""
    if transport is None:
        return
    transport.set_write_buffer_limits(_SEND_BYTES // 4)
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _GONE_SECONDS * 1000)


def _event(name: str, section: str) -> bytes:
    """Return an event. JSON contains no newline, which would end the event's data."""
    return b"event: section\ndata: %b\n\n" % json.dumps([name, section]).encode()
