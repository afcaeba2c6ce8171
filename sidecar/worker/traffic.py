"""Give devpi-server's requests their ids, count them, and report to the sidecar: no scrape waits for devpi."""

from __future__ import annotations

import itertools
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from devpi_server.views import INSTALLER_USER_AGENT
from waitress.buffers import ReadOnlyFileBasedBuffer

from sidecar.core.histogram import Histogram
from sidecar.core.request_id import HEADER, REQUEST_ID, is_sane
from sidecar.devpi.protocol import REQUEST_SECONDS, ROUTES, Requests
from sidecar.worker.access_log import PROBE, WsgiApp, environ_key

REPORT_EVERY = 1.0
"""Minimum seconds between two reports to the sidecar."""

_API = frozenset({"+api", "+authcheck", "+login", "+status"})
_RAISED = "500"
"""waitress's status if the app raises."""
Note = str | tuple[str, str, float, int, str]
"""For a new request its route; for a finished one its route, status, seconds, bytes sent, and Content-Length."""
_READS = frozenset({"GET", "HEAD"})
_ID_KEY = environ_key(HEADER)
_ID_HEADER = "-".join(word.capitalize() for word in HEADER.split("-"))
"""As waitress spells it, and so as a replica relays it from its primary."""
_INSTALLER = re.compile(INSTALLER_USER_AGENT)


class Traffic:
    """A WSGI app around devpi's. waitress's threads note their requests; one thread adds them up later."""

    def __init__(self, app: WsgiApp) -> None:
        self._app = app
        self._run = secrets.token_hex(4)
        self._number = itertools.count().__next__  # in C, so it is atomic
        self._notes: deque[Note] = deque()
        self._news = threading.Event()
        self._routes = {name: _Route() for name in ROUTES}
        self._adding = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Pass the request on; it ends when waitress closes the body. The sidecar's own requests aren't counted.

        The thread keeps the request's id until its next request, because waitress may log something about it, too.
        """
        if environ.get(PROBE):
            REQUEST_ID.set(None)
            return self._app(environ, start_response)
        number = environ.get(_ID_KEY)
        if number is None or not is_sane(number):  # a random one would cost a system call
            environ[_ID_KEY] = number = f"{self._run}{self._number():08x}"  # a replica passes it to its primary
        REQUEST_ID.set(number)
        environ["wsgi.file_wrapper"] = _File
        answer = _Answer(self, classify(environ), start_response, number, environ.get("CONTENT_LENGTH", ""))
        try:
            body = self._app(environ, answer.start)
        except BaseException:
            answer.status = _RAISED
            answer.end(0)
            raise
        if isinstance(body, (list, tuple)):  # complete, and waitress needs its length
            answer.end(sum(map(len, body)))
        elif isinstance(body, _File):
            body.answer = answer
        else:
            answer.count(body)
            return answer
        return body

    def note(self, note: Note) -> None:
        """Record that a request came in or ended; for any thread."""
        self._notes.append(note)
        if not self._news.is_set():
            self._news.set()

    def report(self, send: Callable[[Requests], None]) -> None:
        """Send the totals after each change, at most once a second, forever; for a thread of its own."""
        while True:
            self._news.wait()
            self._news.clear()
            send(self.totals())
            time.sleep(REPORT_EVERY)

    def totals(self) -> Requests:
        """Return the totals of all requests so far."""
        with self._adding:  # no request waits for it
            for _ in range(len(self._notes)):
                note = self._notes.popleft()
                if isinstance(note, str):
                    self._routes[note].in_flight += 1
                else:
                    name, status, seconds, size, received = note
                    self._routes[name].ended(status, seconds, size, int(received or 0))
            return Requests({name: route.totals() for name, route in self._routes.items()})


def classify(environ: dict[str, Any]) -> str:
    """Return the one of `ROUTES` to which a request belongs, by devpi's patterns (devpi_server.main, `create_app`)."""
    method = environ["REQUEST_METHOD"]
    parts = environ.get("PATH_INFO", "").split("/", 4)  # the first part is empty
    third = parts[3] if len(parts) > 3 else ""
    if third == "+simple":
        return "simple"
    if third in ("+f", "+e") and method in _READS:
        return "file"
    if method == "POST" and environ.get("CONTENT_TYPE", "").startswith("multipart/form-data"):
        return "upload"
    if parts[1:2] == ["+changelog"]:  # a replica's long polling, 30 s each
        return "replication"
    if method not in _READS or not _API.isdisjoint(parts[1:4]):
        return "api"
    if len(parts) > 2 and _INSTALLER.match(environ.get("HTTP_USER_AGENT", "")):
        return "simple"
    return "api" if "application/json" in environ.get("HTTP_ACCEPT", "") else "other"


class _Route:
    """The totals of one class of requests."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._statuses: dict[str, int] = {}
        self._durations = Histogram(REQUEST_SECONDS)
        self._bytes = 0
        self._received = 0

    def ended(self, status: str, seconds: float, size: int, received: int) -> None:
        self.in_flight -= 1
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._durations.observe(seconds)
        self._bytes += size
        self._received += received

    def totals(self) -> dict[str, Any]:
        return {
            "in_flight": self.in_flight,
            "statuses": dict(self._statuses),
            "durations": list(self._durations.counts),
            "seconds": round(self._durations.seconds, 6),
            "bytes": self._bytes,
            "received": self._received,
        }


class _Answer:
    """The answer to one request, which ends once. One object for everything, because each request pays for it."""

    __slots__ = ("_began", "_body", "_id", "_next", "_note", "_received", "_route", "_size", "_start", "status")

    def __init__(
        self, traffic: Traffic, route: str, start_response: Callable[..., Any], number: str, received: str
    ) -> None:
        self.status = _RAISED
        self._received = received
        self._id = number
        self._note: Callable[[Note], None] | None = traffic.note  # None: it has ended
        self._route = route
        self._start = start_response
        self._began = time.monotonic()
        traffic.note(route)

    def start(self, status: str, headers: list[tuple[str, str]], *rest: object) -> object:
        """Add the id to the answer's headers (WSGI's `start_response`)."""
        self.status = status[:3]
        header = (_ID_HEADER, self._id)
        if header not in headers:
            headers.append(header)
        return self._start(status, headers, *rest)

    def end(self, size: int) -> None:
        """Note that the body was sent (`size` bytes) or cut off."""
        note, self._note = self._note, None
        if note is not None:
            note((self._route, self.status, time.monotonic() - self._began, size, self._received))

    def count(self, body: Iterable[bytes]) -> None:
        """Wrap this body, and count its bytes while waitress iterates over it."""
        self._body = body
        self._next = iter(body).__next__
        self._size = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = self._next()
        self._size += len(chunk)
        return chunk

    def close(self) -> None:
        try:
            if (close := getattr(self._body, "close", None)) is not None:
                close()
        finally:
            self.end(self._size)


class _File(ReadOnlyFileBasedBuffer):  # type: ignore[misc] # waitress has no types
    """waitress's buffer for sending a file, which it recognises by the class, and closes after sending.

    `close` doesn't call the file's `tell`: that system call releases the GIL, and the thread would wait to get it back.
    """

    answer: _Answer | None = None
    """The answer of which this is the body, if any."""
    _size = 0

    def prepare(self, size: int | None = None) -> int:
        """Return how many bytes waitress will send, at most `size`."""
        self._size = super().prepare(size)
        return self._size

    def close(self) -> None:
        sent = self._size - self.remain
        try:
            super().close()
        finally:
            if self.answer is not None:
                self.answer.end(sent)
