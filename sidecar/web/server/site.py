"""The server: listens for the app, with limits for small requests and few clients."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from sidecar.web.context import GUARD
from sidecar.web.middleware import expectation_checked
from sidecar.web.page.stream import HUB
from sidecar.web.server.connection import Connection
from sidecar.web.server.limit import ConnectionLimit
from sidecar.web.server.listener import Listener, bind, room

if TYPE_CHECKING:
    import ssl

_STOP_PATIENCE = 0.5
"""Seconds that running requests get when the server stops."""
MOST = 272
"""Maximum number of connections; one that pipelines requests and reads no answer takes 80 KiB."""
MOST_TLS = 144
"""The same with TLS, which takes much more memory."""
_REST = 40
"""Connections reserved for probes: event streams and delayed answers to wrong tokens, which are never cut for a new
connection, get the others."""


@dataclass(frozen=True)
class WebServer:
    """A listening app."""

    runner: web.AppRunner
    port: int
    """The port it listens on."""
    limit: ConnectionLimit
    _listener: Listener

    async def stop(self) -> None:
        """Close the listener and all connections; running requests get half a second."""
        self._listener.close()
        await self.runner.cleanup()
        self.limit.evict_all()


async def serve(
    app: web.Application,
    host: str,
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    local: Path | None = None,
) -> WebServer:
    """Listen on `host` and `port` (0: a free one), with TLS if `tls` is set; and without TLS on the Unix socket
    `local`, whose folder only this user can open.

    Raises OSError: EADDRINUSE, EADDRNOTAVAIL, EACCES, or a host name that doesn't resolve (socket.gaierror).
    """
    runner = _Runner(app, access_log=None, shutdown_timeout=_STOP_PATIENCE)
    await runner.setup()
    most = room(MOST_TLS if tls else MOST)
    limit = ConnectionLimit(most)
    app[GUARD].most = min(app[GUARD].most, most // 4)
    app[HUB].most = min(app[HUB].most, max(0, most - app[GUARD].most - _REST))
    try:
        listening = await bind(host, port)
        beside = None if local is None else _bind_local(local)
    except OSError:
        await runner.cleanup()
        raise
    server = runner.server
    assert isinstance(server, _Server)  # noqa: S101 - as _Runner makes it
    listener = Listener(lambda: server.connection(limit), limit)
    for each in listening:
        listener.listen(each, tls)
    if beside is not None:
        listener.listen(beside, None)
    return WebServer(runner, int(listening[0].getsockname()[1]), limit, listener)


def _bind_local(path: Path) -> socket.socket:
    """Bind through the folder's descriptor, because a Unix socket's address is limited to 107 bytes."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(f"/proc/self/fd/{folder}/{path.name}")
        listening.listen()
    except OSError:
        listening.close()
        raise
    finally:
        os.close(folder)
    return listening


class _Server(web.Server):
    """Makes `Connection`s."""

    def connection(self, limit: ConnectionLimit) -> Connection:
        return Connection(self, self._loop, limit)


class _Runner(web.AppRunner):
    """An AppRunner with our server: aiohttp has no other way to change its answers to protocol errors."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        handler = expectation_checked(made.request_handler)

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            connection = request.protocol
            assert isinstance(connection, Connection)  # noqa: S101 - as _Server makes it
            return await connection.answer(request, handler)

        return _Server(answer, request_factory=made.request_factory)
