"""Listening sockets, and the connections that come in by them.

Not asyncio's own server: that knows a connection only after its TLS handshake, so that nothing bounds those that never
end one; takes up to its whole backlog in one go; and where descriptors run out, takes nobody for a second, probes
included.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sidecar.web.server.connection import HEAD_SECONDS, Connection
from sidecar.web.server.limit import ConnectionLimit

if TYPE_CHECKING:
    import ssl

log = logging.getLogger("sidecar.web")

_BACKLOG = 512
_BATCH = 16
"""Connections that are taken before anything else has its turn."""
_BUFFER = 32 * 1024
"""Bytes that the kernel keeps of what a client sends, and of what it doesn't read; the kernel doubles it."""
_PAUSE = 0.05
"""Seconds without taking one, where descriptors or memory have run out."""
_SILENCE = 60.0
"""Seconds between two lines in the log about that."""
_DESCRIPTORS = 1024
"""As many as this process should be able to open; select() can't take more, should anybody use it."""
_RECORD_HEAD = 5
_RECORD_MOST = _RECORD_HEAD + 16 * 1024
_HANDSHAKE = 22
"""The first byte of the first TLS record."""
_RESERVED_DESCRIPTORS = 128
"""Of those, for everything that isn't a connection here."""


def room(most: int) -> int:
    """How many of `most` connections this process has descriptors for; raises its soft limit where that helps."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < (wanted := min(_DESCRIPTORS, hard)):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return most if soft == resource.RLIM_INFINITY else max(16, min(most, soft - _RESERVED_DESCRIPTORS))


async def bind(host: str, port: int) -> list[socket.socket]:
    """A listening socket for each of the host's addresses; the one for `::` takes IPv4 too.

    Raises OSError: EADDRINUSE, EADDRNOTAVAIL, EACCES, or a host name that doesn't resolve (socket.gaierror).
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[socket.socket] = []
    missing: OSError | None = None
    for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
        both = address[0] == "::" and socket.has_dualstack_ipv6()
        try:
            bound.append(socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=both))
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # such as ::1 where there is no IPv6
                for each in bound:
                    each.close()
                raise
            missing = error
    if missing is not None and not bound:
        raise missing
    return bound


class Listener:
    """Takes the connections of some listening sockets."""

    def __init__(self, make: Callable[[], Connection], limit: ConnectionLimit) -> None:
        """`make`: a connection for each that comes."""
        self._make = make
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[socket.socket, ssl.SSLContext | None] = {}
        self._complained = -_SILENCE

    def listen(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Take connections of this socket, which is closed with this listener."""
        listening.setblocking(False)
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # inherited by what comes in
            listening.setsockopt(socket.SOL_SOCKET, buffer, _BUFFER)
        self._sockets[listening] = tls
        self._loop.add_reader(listening, self._accept, listening)

    def close(self) -> None:
        """Take no more."""
        for listening in self._sockets:
            self._loop.remove_reader(listening)
            listening.close()
        self._sockets.clear()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                accepted, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(listening, error)
                return
            accepted.setblocking(False)
            connection = self._make()
            connection.greeting = self._loop.create_task(self._greet(accepted, connection, self._sockets[listening]))

    def _pause(self, listening: socket.socket, error: OSError) -> None:
        """Make room where descriptors or memory have run out."""
        if time.monotonic() - self._complained >= _SILENCE:
            self._complained = time.monotonic()
            log.warning("%d connections are open, and no more can be: %s", len(self._limit), error.strerror)
        self._limit.evict_one()
        self._loop.remove_reader(listening)
        self._loop.call_later(_PAUSE, self._resume, listening)

    def _resume(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            self._loop.add_reader(listening, self._accept, listening)

    async def _greet(self, accepted: socket.socket, connection: Connection, tls: ssl.SSLContext | None) -> None:
        """Make a connection of the socket; one that goes or is cut meanwhile is nothing to speak of."""
        limit = HEAD_SECONDS if tls else None
        try:
            if tls is None:
                self._limit.come(connection)  # not earlier: cut before this runs, the socket would be nobody's to close
            else:
                self._limit.knock(connection)
                await self._hello(accepted)
                self._limit.greets(connection)
            await self._loop.connect_accepted_socket(lambda: connection, accepted, ssl=tls, ssl_handshake_timeout=limit)
        except OSError:
            connection.gone()
        except BaseException:
            connection.gone()
            raise

    async def _hello(self, accepted: socket.socket) -> None:
        """Wait until the client's first TLS record is there, whole. Until then it costs no TLS.

        Raises OSError where the client goes; closes the socket where this fails.
        """
        try:
            for expected in (_RECORD_HEAD, None):
                size = expected or _record_size(accepted.recv(_RECORD_HEAD, socket.MSG_PEEK))
                if _arrived(accepted, size) < size:
                    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)  # else its first byte would wake
                    await self._readable(accepted)
                    if _arrived(accepted, size) < size:
                        raise ConnectionResetError
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        except BaseException:
            accepted.close()
            raise

    async def _readable(self, accepted: socket.socket) -> None:
        """Wait until as much has arrived as SO_RCVLOWAT says, or the client has gone."""
        woken = asyncio.Event()
        self._loop.add_reader(accepted, woken.set)
        try:
            await woken.wait()
        finally:
            self._loop.remove_reader(accepted)


def _arrived(accepted: socket.socket, size: int) -> int:
    """How many bytes, `size` at most, are in the kernel. Raises OSError where the client has gone."""
    try:
        return len(accepted.recv(size, socket.MSG_PEEK))
    except (BlockingIOError, InterruptedError):
        return 0


def _record_size(head: bytes) -> int:
    """The bytes of a TLS record that begins so; what can't be one is left to TLS to refuse."""
    size = _RECORD_HEAD + int.from_bytes(head[3:])
    return size if head[0] == _HANDSHAKE and size <= _RECORD_MOST else _RECORD_HEAD
