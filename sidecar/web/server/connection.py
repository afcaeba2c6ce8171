"""A connection: aiohttp's, with time limits for slow clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from sidecar.web.problems import Problem
from sidecar.web.server.limit import ConnectionLimit

log = logging.getLogger("sidecar.web")

HEAD_SECONDS = 10.0
"""Within which a request's whole head must arrive, from the start of the connection (including the TLS handshake) or
the head's first byte; and within which a slow reader must continue to read. aiohttp has no such limits."""
IDLE_SECONDS = 75.0
"""A connection stays open without a request."""
_CLOSING_SECONDS = 5.0
"""Added to that: by then aiohttp has closed an idle connection whose client has read everything."""
_LINE_BYTES = 4096
_HEADER_BYTES = 8190  # a browser's cookies for `localhost` can be many
_LINGER_SECONDS = 1.0  # to continue reading after an early answer, such as 401 to a POST
_UNREAD_BYTES = 16 * 1024
"""Of answers that a client has not read; with more, its next request waits until it reads."""


class Connection(web.RequestHandler):
    """A connection that answers protocol errors as problems, and is cut if its client is too slow."""

    greeting: asyncio.Task[None] | None = None
    """Turns the accepted socket into a connection; with TLS, includes the handshake."""

    def __init__(self, server: web.Server, loop: asyncio.AbstractEventLoop, limit: ConnectionLimit) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type] # disables it
            logger=log,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=_LINGER_SECONDS,
            max_line_size=_LINE_BYTES,
            max_field_size=_HEADER_BYTES,
            auto_decompress=False,  # no route needs it, and it may be a bomb
        )
        self._limit = limit
        self._pipe: asyncio.Transport | None = None  # aiohttp drops its own on close, with bytes still unsent
        self._asked_before = False
        self._timed = True  # or busy: what arrives is the body
        self._answering = False
        self._deadline = loop.call_later(HEAD_SECONDS, self.cut)

    def cut(self) -> None:
        """Close it now and discard unsent bytes."""
        if self._pipe is not None:
            self._pipe.abort()
        elif self.greeting is not None:
            self.greeting.cancel()

    def gone(self) -> None:
        """Forget it: it is closed, or was never established."""
        self._deadline.cancel()
        self._limit.leave(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to count it as open."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP, TLS and Unix sockets are
        self._pipe = transport
        transport.set_write_buffer_limits(_UNREAD_BYTES)
        self._limit.come(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget it."""
        self._pipe = None
        self.gone()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Start the time limit at a head's first byte."""
        if not self._timed:
            self._timed = True
            self._cut_in(HEAD_SECONDS)
        super().data_received(data)

    def pause_writing(self) -> None:
        """Start the time limit: the client doesn't read."""
        super().pause_writing()
        self._cut_in(HEAD_SECONDS)

    def resume_writing(self) -> None:
        """Stop the time limit: the client reads again."""
        super().resume_writing()
        if self._answering:
            self._deadline.cancel()
        else:
            self._cut_in(IDLE_SECONDS + _CLOSING_SECONDS)

    async def answer(
        self, request: web.BaseRequest, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Answer a request whose head has arrived, without a time limit.

        The first request of a connection, such as a kubelet's probe, is answered at once. Further ones wait for their
        turn, because a client can pipeline many in one packet.
        """
        if self._asked_before:
            await self._limit.turn()  # while idle: many waiting connections must stay evictable
        self._asked_before = True
        self._timed = self._answering = True
        self._deadline.cancel()
        self._limit.works(self)
        try:
            return await handler(request)
        finally:
            self._timed = self._answering = False
            self._limit.rests(self)
            if self._pipe is not None:
                self._cut_in(IDLE_SECONDS + _CLOSING_SECONDS)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer 400: not HTTP. 431: a line or a header is too long. 500: an internal error, logged."""
        if status >= 500:
            log.error("internal error while answering", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        return Problem(431 if isinstance(exc, LineTooLong) else status, close=True).response()

    def _cut_in(self, seconds: float) -> None:
        self._deadline.cancel()
        self._deadline = self._loop.call_later(seconds, self.cut)
