"""Listening sockets, and the connections that they accept.

Why not asyncio's own server: it reports a connection only after its TLS handshake, so nothing limits those that never
complete it; it accepts up to its whole backlog at once; and if descriptors run out, it accepts no connection for a
second, not even a probe's.
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
"""Connections that are accepted in one round of the event loop."""
_BUFFER = 32 * 1024
"""Bytes of each of a socket's buffers; the kernel doubles it."""
_PAUSE = 0.05
"""Seconds without accepting after descriptors or memory ran out."""
_SILENCE = 60.0
"""Minimum seconds between two log lines about that."""
_DESCRIPTORS = 1024
"""Descriptors that this process should be able to open; select() supports no more."""
_RECORD_HEAD = 5
_RECORD_MOST = _RECORD_HEAD + 16 * 1024
_HANDSHAKE = 22
"""The first byte of the first TLS record."""
_RESERVED_DESCRIPTORS = 128
"""Descriptors for everything except these connections."""


def room(most: int) -> int:
    """Return how many of `most` connections fit into this process's descriptors; raise the soft limit if possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < (wanted := min(_DESCRIPTORS, hard)):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return most if soft == resource.RLIM_INFINITY else max(16, min(most, soft - _RESERVED_DESCRIPTORS))


async def bind(host: str, port: int) -> list[socket.socket]:
    """Return a listening socket for each of the host's addresses; the one for `::` accepts IPv4 too.

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
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # such as ::1 without IPv6
                for each in bound:
                    each.close()
                raise
            missing = error
    if missing is not None and not bound:
        raise missing
    return bound


class Listener:
    """Accepts the connections of its listening sockets."""

    def __init__(self, make: Callable[[], Connection], limit: ConnectionLimit) -> None:
        """`make` returns a new connection."""
        self._make = make
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[socket.socket, ssl.SSLContext | None] = {}
        self._complained = -_SILENCE

    def listen(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Accept connections of this socket; `close` closes it."""
        listening.setblocking(False)
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # accepted sockets inherit them
            listening.setsockopt(socket.SOL_SOCKET, buffer, _BUFFER)
        self._sockets[listening] = tls
        self._loop.add_reader(listening, self._accept, listening)

    def close(self) -> None:
        """Stop accepting."""
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
        """Cut one connection and wait: descriptors or memory ran out."""
        if time.monotonic() - self._complained >= _SILENCE:
            self._complained = time.monotonic()
            log.warning("%d connections are open, can't accept more: %s", len(self._limit), error.strerror)
        self._limit.evict_one()
        self._loop.remove_reader(listening)
        self._loop.call_later(_PAUSE, self._resume, listening)

    def _resume(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            self._loop.add_reader(listening, self._accept, listening)

    async def _greet(self, accepted: socket.socket, connection: Connection, tls: ssl.SSLContext | None) -> None:
        """Turn the socket into a connection; ignore one that is closed or cut meanwhile."""
        limit = HEAD_SECONDS if tls else None
        try:
            if tls is None:
                self._limit.come(connection)  # not earlier: if cut before this runs, nothing would close the socket
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
        """Wait until the client's first TLS record is complete; until then, no memory for TLS is needed.

        Raises OSError if the client disconnects; closes the socket on errors.
        """
        try:
            for expected in (_RECORD_HEAD, None):
                size = expected or _record_size(accepted.recv(_RECORD_HEAD, socket.MSG_PEEK))
                if _arrived(accepted, size) < size:
                    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)  # don't wake at each byte
                    await self._readable(accepted)
                    if _arrived(accepted, size) < size:
                        raise ConnectionResetError
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        except BaseException:
            accepted.close()
            raise

    async def _readable(self, accepted: socket.socket) -> None:
        """Wait until SO_RCVLOWAT bytes have arrived, or the client disconnects."""
        woken = asyncio.Event()
        self._loop.add_reader(accepted, woken.set)
        try:
            await woken.wait()
        finally:
            self._loop.remove_reader(accepted)


def _arrived(accepted: socket.socket, size: int) -> int:
    """Return how many bytes (`size` at most) have arrived. Raises OSError if the client disconnected."""
    try:
        return len(accepted.recv(size, socket.MSG_PEEK))
    except (BlockingIOError, InterruptedError):
        return 0


def _record_size(head: bytes) -> int:
    """Return the size of the TLS record with this head; TLS itself rejects an invalid one."""
    size = _RECORD_HEAD + int.from_bytes(head[3:])
    return size if head[0] == _HANDSHAKE and size <= _RECORD_MOST else _RECORD_HEAD
