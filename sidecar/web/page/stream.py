"""`/events`: what changes on the page, as server-sent events, to a bounded number of browsers.

Nothing of it has a timer of its own: the monitor's ticks and the lifecycle's changes drive it. Each section of the page
is rendered once for all, and a stream holds at most one version of each that it has not sent yet: who reads slowly
misses versions, and takes no memory.
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
"""Streams that may be open, where nothing else bounds them."""
PULSE = 15.0
"""Seconds after which a stream hears something at the latest: the checks' new values, or a pulse."""
GAP = 0.25
"""Seconds between two changes that are told, unless the phase changes."""
PATIENCE = 10.0
"""Seconds in which a client must have read what was sent."""
_RETRY_MS = 1000
_SEND_BYTES = 64 * 1024
"""Of the kernel's send buffer for a stream, which grows to megabytes otherwise."""
_GONE_SECONDS = 60
"""After which the kernel gives up on a client whose machine or network is gone."""


class Stream:
    """What one browser has still to be told."""

    def __init__(self, host: str) -> None:
        self.host = host
        """As its request named this server."""
        self.own: dict[str, str] = {}
        """The sections that depend on how it names this server."""
        self.pending: dict[str, bytes] = {}
        self.wake = asyncio.Event()

    def put(self, name: str, event: bytes) -> None:
        """Tell this, instead of an older version of the same."""
        self.pending.pop(name, None)
        self.pending[name] = event
        self.wake.set()

    def take(self) -> bytes:
        """All that is to be told now."""
        self.wake.clear()
        taken = b"".join(self.pending.values())
        self.pending.clear()
        return taken


class Hub:
    """All streams, and what they know. Lives on the event loop."""

    def __init__(self, context: Context) -> None:
        self.epoch = secrets.token_hex(4)
        """Another one after each start of the sidecar."""
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
        context.lifecycle.subscribe(self._lived)
        context.board.on_tick(self._ticked)
        context.board.on_change(self._changed)

    def __len__(self) -> int:
        return len(self._streams)

    @contextlib.contextmanager
    def join(self, host: str, last_event_id: str | None) -> Iterator[Stream]:
        """A new stream, told all that its page may have missed. Raises `Problem`."""
        if len(self._streams) >= self.most or self.closed:
            detail = f"{self.most} pages are open already; this one is not live, reload it"
            raise Problem(503, "too many streams", detail, name="too-many-streams", headers={"Retry-After": "30"})
        if not self._streams:
            self._tell()
        stream = Stream(host)
        stream.put("hello", self._hello())
        if last_event_id != self._id:
            for name, section in self._sections.items():
                stream.put(name, _event(name, section))
            self._tell_own(stream, self._view())
            stream.put("id", self._id_event())
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.discard(stream)
            if not self._streams:
                self._all_gone.set()

    async def close(self) -> None:
        """Tell what is still to be told, and end all streams."""
        self.closed = True
        if self._later is not None:
            self._tell()
        self._all_gone.clear()
        for stream in self._streams:
            stream.wake.set()
        if self._streams:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GOODBYE):
                    await self._all_gone.wait()

    # --- when to tell -------------------------------------------------------------------------------------------

    def _lived(self, before: Snapshot, after: Snapshot) -> None:
        if self._streams and not self.closed:
            self._tell_in(0 if before.phase is not after.phase else self._reported + GAP - time.monotonic())

    def _changed(self) -> None:
        if self._streams and not self.closed:
            self._tell_in(self._reported + GAP - time.monotonic())

    def _ticked(self) -> None:
        if not self._streams or self.closed:
            return
        since = time.monotonic() - self._reported
        if since >= PULSE:
            self._tell_in(0)
        elif self._key() != self._seen:
            self._tell_in(GAP - since)

    def _key(self) -> object:
        """What of the checks is worth telling at once; their figures can wait for the next pulse."""
        return [check.gist for check in self._context.board.checks()]

    def _tell_in(self, seconds: float) -> None:
        """Not from inside of whoever tells us: an error in a rendering is no matter of theirs."""
        if self._later is not None and seconds > 0:
            return
        if self._later is not None:
            self._later.cancel()
        self._later = asyncio.get_running_loop().call_later(seconds, self._tell)

    # --- what to tell -------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Tell all streams what has changed since they were told last."""
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
            self._tell_own(stream, view)

    def _tell_own(self, stream: Stream, view: View) -> None:
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
        said = json.dumps({"epoch": self.epoch, "edition": assets.edition(), "now": rfc3339(now())})
        return b"retry: %d\nevent: hello\ndata: %b\n\n" % (_RETRY_MS, said.encode())


HUB = web.AppKey("hub", Hub)

_NOTHING_NEW = {"pulse": b"event: pulse\ndata:\n\n"}
"""By which a page knows that it isn't forgotten: scripts don't hear of comments."""
_GOODBYE = 0.3
"""Seconds that the streams have for their last words, when the sidecar ends."""


async def events(request: web.Request) -> web.StreamResponse:
    """Stream changes of the page as server-sent events.

    200: without an end, until the client or the sidecar goes. 503: too many are open already, with Retry-After.
    """
    hub = request.app[HUB]
    headers = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    if request.method == "HEAD":
        return response
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


def _limit(transport: asyncio.Transport | None) -> None:
    """Have the kernel hold little for a client, and not for long."""
    if transport is None:
        return
    transport.set_write_buffer_limits(_SEND_BYTES // 4)
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _GONE_SECONDS * 1000)


def _event(name: str, section: str) -> bytes:
    """JSON has no newline in it, which would end the event's data."""
    return b"event: section\ndata: %b\n\n" % json.dumps([name, section]).encode()
