"""Make room for new connections in waitress: close those whose clients have kept the server waiting longest.

Accept all waiting connections at once if many are open: waitress accepts one in each round of its loop, and a round
takes tens of milliseconds under load.

When descriptors run out, waitress retries at once and logs a traceback each time: 20,000 in seconds. Here the number of
connections stays within the limit of descriptors. If they run out all the same, one line is logged, the connections
that have kept the server waiting longest are closed, and the next attempt follows when one has closed, or after 1 s.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import logging
import os
import resource
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from operator import itemgetter

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import BaseWSGIServer
from waitress.task import WSGITask

log = logging.getLogger("sidecar.limit")

STEP = 4096
"""Bytes of a body by which an upload makes progress."""

PATIENCE = 10.0
"""Seconds without progress after which an upload or a download may be closed in favour of a new connection."""
BUSY = 20
"""Number of connections above which all waiting ones are accepted at once. That costs one more accept()."""
PAUSE = 1.0
"""Seconds without accepting a connection after descriptors or memory have run out, unless one closes before."""
SILENCE = 60.0
"""Minimum seconds between two log lines about that."""
_RUN_OUT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_SELECT = 1024
"""waitress uses select(), which supports only descriptors below this."""
_OF_A_THREAD = 2
"""Descriptors that a thread has open while it answers: the database, and a file or its journal."""
_FEWEST = 4
"""Minimum of the limit of connections, however few descriptors are left."""
_SPARE = 16
"""Connections to close after descriptors have run out, because answers need some, too."""


def room(threads: int) -> int:
    """Return how many connections the limit of descriptors allows, after raising the soft limit if possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _SELECT if hard == resource.RLIM_INFINITY else min(_SELECT, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    most = _SELECT if soft == resource.RLIM_INFINITY else min(_SELECT, soft)
    in_use = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only names are needed
    return max(_FEWEST, most - in_use - _OF_A_THREAD * threads)


class ConnectionLimit:
    """Keeps the connections of one waitress server below waitress' limit, unless that many are busy.

    At its limit waitress accepts no connection until others have been idle for 2 minutes. All methods run in waitress'
    loop; if there is room, a round costs one comparison.
    """

    def __init__(self, listeners: Sequence[BaseWSGIServer], drains: threading.Event) -> None:
        """Change the listeners, before they accept connections. `drains` is set when connections must not be kept."""
        first = listeners[0]
        self._map = first._map
        # every listener accepts at least one connection in a round; at its limit waitress would log it and stop
        self._newcomers = len(listeners)
        self._fewest = len(self._map) + _FEWEST
        within = len(self._map) + room(first.adj.threads)
        self._usual = self._most = min(first.adj.connection_limit - self._newcomers - 1, within)
        """The limit of connections: usually, and now."""
        self._open = 0
        """The number of connections when descriptors last ran out."""
        self._pause_until = 0.0
        self._complained = -SILENCE
        for listener in listeners:
            listener.channel_class = functools.partial(Connection, drains)
            listener.accept = functools.partial(self._take, listener.accept)
            listener.handle_accept = functools.partial(self._accept, listener.handle_accept)
            listener.readable = functools.partial(self._takes, listener.readable)
        self._accepts = first.readable
        first.readable = self._look  # waitress calls it before that of any connection

    def _take(self, accept: Callable[[], object]) -> object:
        """Accept a connection; None if there is none. The listeners' `accept`."""
        try:
            return accept()
        except OSError as error:
            if error.errno not in _RUN_OUT:
                raise
            now, self._open = time.monotonic(), len(self._map)
            self._pause_until = now + PAUSE
            self._most = max(self._fewest, min(self._most, self._open - _SPARE))
            self._cut(1)
            if now - self._complained >= SILENCE:
                self._complained = now
                log.warning("%d connections are open, and no more can be: %s", self._open, error.strerror)
            return None

    def _takes(self, readable: Callable[[], bool]) -> bool:
        """Whether to accept: not in a pause, which a closed connection ends. The listeners' `readable`."""
        takes = bool(readable())
        return takes and (len(self._map) < self._open or time.monotonic() >= self._pause_until)

    def _accept(self, one: Callable[[], None]) -> None:
        """Accept one connection, or all that wait if many are open. The listeners' `handle_accept`."""
        one()
        while BUSY < (before := len(self._map)) < self._most:
            one()
            if len(self._map) <= before:
                break

    def _look(self) -> bool:
        """Keep the limit, then return whether to accept. The first listener's `readable`, called once in a round."""
        if self._most < self._usual and time.monotonic() - self._pause_until > SILENCE:
            self._most = self._usual
        if (surplus := len(self._map) - self._most) > 0:
            self._cut(surplus)
        return bool(self._accepts())

    def _cut(self, surplus: int) -> None:
        """Make waitress close up to `surplus` waiting connections in this round, except the newest."""
        now = time.monotonic()
        everything = list(self._map.values())  # a copy: a thread that answers may close its connection meanwhile
        connections = [each for each in everything if isinstance(each, Connection) and each.connected]
        before = connections[: -self._newcomers]  # in order of arrival: `last_activity` may be set late
        waiting = [(waited, each) for each in before if not each.will_close and (waited := each.waits(now)) is not None]
        waiting.sort(key=itemgetter(0), reverse=True)
        for _, connection in waiting:
            if surplus and not (connection.readable() and has_unread(connection)):
                connection.cut()
                surplus -= 1


class Connection(HTTPChannel):  # type: ignore[misc] # waitress has no types
    """A connection that measures how long the server has waited for its client."""

    class Request(HTTPRequestParser):  # type: ignore[misc]
        """A request that has begun to arrive."""

        def __init__(self, adj: object) -> None:
            super().__init__(adj)
            self.began = time.monotonic()

        def parse_header(self, header_plus: bytes) -> None:
            """Parse as waitress does, but answer 400 to a URL that can't be split; waitress only closes."""
            try:
                super().parse_header(header_plus)
            except ValueError:
                raise ParsingError("Bad URI") from None

    class Answer(WSGITask):  # type: ignore[misc]
        """An answer to a request."""

        def build_response_header(self) -> bytes:
            """Build as waitress does, with `Connection: close` in the last answer while the server drains."""
            if self.channel.ends():
                self.request.headers["CONNECTION"] = "close"  # as if the client had sent it; waitress does the rest
            return bytes(super().build_response_header())

    parser_class = Request
    task_class = Answer
    _progress: object = None
    """The progress of a transfer when last checked."""
    _progressed = 0.0
    """When that progress was first seen."""

    def __init__(self, drains: threading.Event, *arguments: object, **named: object) -> None:
        self._drains = drains
        super().__init__(*arguments, **named)

    def ends(self) -> bool:
        """Whether the server drains, and the client has sent nothing after the request that is being answered."""
        return self._drains.is_set() and len(self.requests) == 1 and self.request is None and not has_unread(self)

    def waits(self, now: float) -> float | None:
        """Return for how many seconds the server has waited for a request, its head, or a body's first step.

        Also for an upload or a download without progress, if more than `PATIENCE`. None if it doesn't wait.
        """
        running = bool(self.requests)  # read first: a thread removes its request after it has written everything
        if self.total_outbufs_len >= (self.adj.send_bytes if running else 1):  # while running, waitress sends no less
            return self._stuck((self.last_activity, _unacknowledged(self.socket)), now)
        if running:
            return None
        request = self.request
        if request is None:
            return float(time.time() - self.last_activity)  # in wall-clock time
        if request.body_bytes_received < STEP:
            return float(now - request.began)
        return self._stuck((request.began, request.body_bytes_received // STEP), now)

    def _stuck(self, progress: object, now: float) -> float | None:
        if progress != self._progress:
            self._progress, self._progressed = progress, now
        waited = now - self._progressed
        return waited if waited > PATIENCE else None

    def cut(self) -> None:
        """Make waitress close it in this round of its loop, because select() still has its descriptor."""
        self.will_close = True
        with suppress(OSError):  # the client has closed it
            self.socket.shutdown(socket.SHUT_RDWR)  # otherwise waitress waits until the client reads


def has_unread(channel: HTTPChannel) -> bool:
    """Whether data has arrived that waitress has not read yet, and a close would lose."""
    try:
        return bool(channel.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except (OSError, AttributeError):  # waitress has closed it, and its socket is None
        return False


def _unacknowledged(connection: socket.socket) -> int:
    """Return the bytes that the kernel still holds for the client; it buffers megabytes before waitress blocks."""
    try:
        (size,) = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))
    except OSError:
        return 0
    return int(size)
