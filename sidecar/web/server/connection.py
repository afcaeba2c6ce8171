"""One connection: aiohttp's, with a time limit on whatever its client takes its time for."""

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
"""In which a request's whole head must have come, counted from the connection's begin (a TLS handshake included) or
from the head's first byte; and in which a client that reads slowly must have read on. aiohttp has no such limit."""
IDLE_SECONDS = 75.0
"""A connection lasts without a request."""
_CLOSING_SECONDS = 5.0
"""Beyond that: aiohttp has closed an idle connection by then, if its client has read all that it was sent."""
_LINE_BYTES = 4096
_HEADER_BYTES = 8190  # a browser's cookies for `localhost` can be many
_LINGER_SECONDS = 1.0  # to read on after an early answer, such as 401 to a POST
_UNREAD_BYTES = 16 * 1024
"""Of answers that a client has not read; with more than that it is asked nothing further until it does."""


class Connection(web.RequestHandler):
    """Answers what isn't HTTP in the words of all other errors; cut when its client is too slow."""

    greeting: asyncio.Task[None] | None = None
    """What makes a connection of the accepted socket; done in an instant, or with TLS after the handshake."""

    def __init__(self, server: web.Server, loop: asyncio.AbstractEventLoop, limit: ConnectionLimit) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type] # aiohttp's way to say: none
            logger=log,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=_LINGER_SECONDS,
            max_line_size=_LINE_BYTES,
            max_field_size=_HEADER_BYTES,
            auto_decompress=False,  # a compressed body is not for us, let alone a bomb
        )
        self._limit = limit
        self._pipe: asyncio.Transport | None = None  # aiohttp's own is gone when it closes, though bytes are left in it
        self._asked_before = False
        self._timed = True  # or busy, and what comes is the body
        self._answering = False
        self._deadline = loop.call_later(HEAD_SECONDS, self.cut)

    def cut(self) -> None:
        """End it now, whatever it still has to send."""
        if self._pipe is not None:
            self._pipe.abort()
        elif self.greeting is not None:
            self.greeting.cancel()

    def gone(self) -> None:
        """It is closed, or was never made."""
        self._deadline.cancel()
        self._limit.leave(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As the event loop tells it."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP, TLS and Unix sockets are
        self._pipe = transport
        transport.set_write_buffer_limits(_UNREAD_BYTES)
        self._limit.come(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """As the event loop tells it."""
        self._pipe = None
        self.gone()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As the event loop tells it: a head's first byte starts its time."""
        if not self._timed:
            self._timed = True
            self._cut_in(HEAD_SECONDS)
        super().data_received(data)

    def pause_writing(self) -> None:
        """As the event loop tells it: the client doesn't read."""
        super().pause_writing()
        self._cut_in(HEAD_SECONDS)

    def resume_writing(self) -> None:
        """As the event loop tells it: the client has read on."""
        super().resume_writing()
        if self._answering:
            self._deadline.cancel()
        else:
            self._cut_in(IDLE_SECONDS + _CLOSING_SECONDS)

    async def answer(
        self, request: web.BaseRequest, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Have a request answered, whose head has come; how long that may take is the handler's matter.

        A connection's first one goes at once, for that is how a kubelet probes; further ones, which may be many and
        in one packet, wait for their turn.
        """
        if self._asked_before:
            await self._limit.turn()  # still at rest, else a crowd of those would leave no room for a newcomer
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
        """400: not HTTP. 431: a line or a header is too long. 500: the sidecar's own error, logged."""
        if status >= 500:
            log.error("internal error while answering", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        return Problem(431 if isinstance(exc, LineTooLong) else status, close=True).response()

    def _cut_in(self, seconds: float) -> None:
        self._deadline.cancel()
        self._deadline = self._loop.call_later(seconds, self.cut)
