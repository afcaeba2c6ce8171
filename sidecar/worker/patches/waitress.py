"""Waitress' connections: a newcomer finds room, for whoever has kept the server waiting for longest goes.

And in a crowd nobody waits long to be let in: waitress accepts one connection in each round of its loop, which takes
tens of milliseconds when many have something to say.

Where descriptors run out, waitress tries again at once, and logs a traceback each time: 20,000 in seconds. Here there
are no more connections than the limit of descriptors leaves room for; and if they run out all the same, one line is
logged, some of those that have kept the server waiting for longest go, and the next try waits for that, or a second.
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
"""Seconds that an upload has for each further step, and the client of an answer to read on, where room is needed."""
BUSY = 20
"""Connections above which all who wait are accepted at once. It costs one look too many, so it is not done before."""
PAUSE = 1.0
"""Seconds without taking a connection, where descriptors or memory have run out and none of either is given back."""
SILENCE = 60.0
"""Seconds between two lines in the log about that."""
_RUN_OUT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_SELECT = 1024
"""waitress waits by select(), which takes no descriptor above."""
_OF_A_THREAD = 2
"""Descriptors that a thread has open while it answers: the database, and a file or its journal."""
_FEWEST = 4
"""Connections that there may be, however few descriptors."""
_SPARE = 16
"""Connections that there may be fewer, once descriptors have run out: answers need some, too."""


def room(threads: int) -> int:
    """For how many connections there are descriptors; raises the soft limit where that helps."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _SELECT if hard == resource.RLIM_INFINITY else min(_SELECT, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    most = _SELECT if soft == resource.RLIM_INFINITY else min(_SELECT, soft)
    in_use = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names alone
    return max(_FEWEST, most - in_use - _OF_A_THREAD * threads)


class ConnectionLimit:
    """All connections of one waitress server, which accepts nobody at its limit, until some were silent for 2 minutes.

    So it is kept below, unless that many are busy. Everything here runs in waitress' own loop; where there is room,
    that is one look at their number in each round.
    """

    def __init__(self, listeners: Sequence[BaseWSGIServer], drains: threading.Event) -> None:
        """Before they accept anybody. `drains` is set as soon as no connection should be kept for a next request."""
        first = listeners[0]
        self._map = first._map
        # in each round of the loop, every listener accepts one at least; at its limit, waitress would say so and stop
        self._newcomers = len(listeners)
        self._fewest = len(self._map) + _FEWEST
        within = len(self._map) + room(first.adj.threads)
        self._usual = self._most = min(first.adj.connection_limit - self._newcomers - 1, within)
        """How many there may be: usually, and now."""
        self._open = 0
        """How many there were when descriptors ran out."""
        self._pause_until = 0.0
        self._complained = -SILENCE
        for listener in listeners:
            listener.channel_class = functools.partial(Connection, drains)
            listener.accept = functools.partial(self._take, listener.accept)
            listener.handle_accept = functools.partial(self._accept, listener.handle_accept)
            listener.readable = functools.partial(self._takes, listener.readable)
        self._accepts = first.readable
        first.readable = self._look  # it comes before all connections in a round

    def _take(self, accept: Callable[[], object]) -> object:
        """The listeners' `accept`: a connection, or None."""
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
        """The listeners' `readable`: not in a pause, which ends when somebody goes."""
        takes = bool(readable())
        return takes and (len(self._map) < self._open or time.monotonic() >= self._pause_until)

    def _accept(self, one: Callable[[], None]) -> None:
        """The listeners' `handle_accept`, where somebody waits."""
        one()
        while BUSY < (before := len(self._map)) < self._most:  # there is room, and nobody has to go for it
            one()
            if len(self._map) <= before:
                break  # it was the last

    def _look(self) -> bool:
        """The listener's `readable`, which waitress asks once in each round."""
        if self._most < self._usual and time.monotonic() - self._pause_until > SILENCE:
            self._most = self._usual
        if (surplus := len(self._map) - self._most) > 0:
            self._cut(surplus)
        return bool(self._accepts())

    def _cut(self, surplus: int) -> None:
        """Have waitress close so many connections in this round, if so many wait; but not who has just come."""
        now = time.monotonic()
        everything = list(self._map.values())  # at once: a thread that answers may close its connection meanwhile
        connections = [each for each in everything if isinstance(each, Connection) and each.connected]
        before = connections[: -self._newcomers]  # by when they came: an answer may be stamped late
        waiting = [(waited, each) for each in before if not each.will_close and (waited := each.waits(now)) is not None]
        waiting.sort(key=itemgetter(0), reverse=True)
        for _, connection in waiting:
            if surplus and not (connection.readable() and has_unread(connection)):
                connection.cut()
                surplus -= 1


class Connection(HTTPChannel):  # type: ignore[misc] # waitress has no types
    """One connection, that can tell for how long the server has waited for its client."""

    class Request(HTTPRequestParser):  # type: ignore[misc]
        """A request that has begun to come."""

        def __init__(self, adj: object) -> None:
            super().__init__(adj)
            self.began = time.monotonic()

        def parse_header(self, header_plus: bytes) -> None:
            """As waitress does; its loop has no answer to a URL that can't be split."""
            try:
                super().parse_header(header_plus)
            except ValueError:
                raise ParsingError("Bad URI") from None

    class Answer(WSGITask):  # type: ignore[misc]
        """An answer to a request."""

        def build_response_header(self) -> bytes:
            """As waitress does; the last one while the server drains tells the client not to ask here again."""
            if self.channel.ends():
                self.request.headers["CONNECTION"] = "close"  # as if its client had wished it: waitress does the rest
            return bytes(super().build_response_header())

    parser_class = Request
    task_class = Answer
    _progress: object = None
    """How far a transfer was when it was looked at."""
    _progressed = 0.0
    """When that was seen first."""

    def __init__(self, drains: threading.Event, *arguments: object, **named: object) -> None:
        self._drains = drains
        super().__init__(*arguments, **named)

    def ends(self) -> bool:
        """Whether the server drains, and its client has sent nothing behind the request that is being answered."""
        return self._drains.is_set() and len(self.requests) == 1 and self.request is None and not has_unread(self)

    def waits(self, now: float) -> float | None:
        """For how many seconds the server has waited: for a request, a whole head, a body's first step.

        Or for an upload to go on, or an answer to be read on. None: it has not, or not for long.
        """
        running = bool(self.requests)  # first: the thread that answers has written all when it takes its request away
        if self.total_outbufs_len >= (self.adj.send_bytes if running else 1):  # waitress writes no less while it runs
            return self._stuck((self.last_activity, _unacknowledged(self.socket)), now)
        if running:
            return None
        request = self.request
        if request is None:
            return float(time.time() - self.last_activity)  # as waitress stamps it
        if request.body_bytes_received < STEP:
            return float(now - request.began)
        return self._stuck((request.began, request.body_bytes_received // STEP), now)

    def _stuck(self, progress: object, now: float) -> float | None:
        if progress != self._progress:
            self._progress, self._progressed = progress, now
        waited = now - self._progressed
        return waited if waited > PATIENCE else None

    def cut(self) -> None:
        """Have waitress close it in this round of its loop; a close at once would leave its descriptor to select()."""
        self.will_close = True
        with suppress(OSError):  # its client has gone
            self.socket.shutdown(socket.SHUT_RDWR)  # else waitress would wait until a client that doesn't read does


def has_unread(channel: HTTPChannel) -> bool:
    """Whether something has arrived that waitress has not come to read yet: a close would cut it."""
    try:
        return bool(channel.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except (OSError, AttributeError):  # waitress has closed it, and has no socket any more
        return False


def _unacknowledged(connection: socket.socket) -> int:
    """Bytes that the kernel still holds for the client: it takes megabytes before waitress can write on."""
    try:
        (size,) = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))
    except OSError:
        return 0
    return int(size)
