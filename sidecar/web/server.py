"""Listens for the app, with limits that fit small requests."""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from sidecar.web.problems import Problem

log = logging.getLogger("sidecar.web")

_STOP_PATIENCE = 0.5
"""Seconds that answers under way get when the server stops."""
_BACKLOG = 512
_LINE_BYTES = 4096
_HEADER_BYTES = 8190  # a browser's cookies for `localhost` can be many
_IDLE_SECONDS = 75.0
_LINGER_SECONDS = 1.0  # to read on after an early answer, such as 401 to a POST


@dataclass(frozen=True)
class WebServer:
    """An app that listens."""

    runner: web.AppRunner
    port: int
    """The port it really listens on."""

    async def stop(self) -> None:
        """Close the listener and all connections; what is being answered gets half a second."""
        await self.runner.cleanup()


async def serve(app: web.Application, host: str, port: int) -> WebServer:
    """Listen on `host` and `port` (0: a free one).

    Raises OSError: EADDRINUSE, EADDRNOTAVAIL, EACCES, or a host name that doesn't resolve (socket.gaierror).
    """
    runner = _Runner(app, access_log=None, shutdown_timeout=_STOP_PATIENCE)
    try:
        await runner.setup()
        await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
    except OSError as error:
        await runner.cleanup()
        if error.errno is None:  # asyncio's "could not bind on any address"
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL)) from error
        raise
    return WebServer(runner, int(runner.addresses[0][1]))


class _Connection(web.RequestHandler):
    """One connection; answers what isn't HTTP in the words of all other errors."""

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
        response = Problem(431 if isinstance(exc, LineTooLong) else status).response()
        response.force_close()
        return response


class _Server(web.Server):
    """Makes a `_Connection` of each connection."""

    def __call__(self) -> web.RequestHandler:
        return _Connection(
            self,
            loop=self._loop,
            access_log=None,  # type: ignore[arg-type] # aiohttp's way to say: none
            logger=log,
            keepalive_timeout=_IDLE_SECONDS,
            lingering_time=_LINGER_SECONDS,
            max_line_size=_LINE_BYTES,
            max_field_size=_HEADER_BYTES,
            auto_decompress=False,  # a compressed body is not for us, let alone a bomb
        )


class _Runner(web.AppRunner):
    """An AppRunner whose server is ours; aiohttp has no other way to word protocol errors."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made.request_handler, request_factory=made.request_factory)
