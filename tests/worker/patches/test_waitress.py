"""`sidecar.worker.patches.waitress`: a real waitress server accepts all connections and closes no busy one for it."""

from __future__ import annotations

import resource
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from sidecar.worker.patches import waitress
from sidecar.worker.patches.waitress import BUSY, STEP
from tests.worker.patches.server import BODY, LOOPBACK, PATIENCE, Client, Server

LIMIT = 30
"""Number of connections, including listeners and their triggers, at which waitress stops accepting."""
MANY = 2 * LIMIT
SHORT = 0.5
"""`waitress.PATIENCE` in tests that exceed it."""
HALF_A_HEAD = b"GET / HTTP/1.1\r\nX: "
HEAD = b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
DOWNLOAD = b"GET /download HTTP/1.1\r\nHost: x\r\n\r\n"


class Place:
    """A server with a low limit of connections, and its clients."""

    def __init__(self, stack: ExitStack, **adjustments: Any) -> None:
        self.server = Server(**{"connection_limit": LIMIT, **adjustments})
        self._stack = stack
        stack.callback(self.server.stop)
        stack.callback(self._wait_until_empty)

    def connect(self, sent: bytes = b"") -> Client:
        """Return a client that has sent this."""
        client = Client(self.server.drainer.addresses[-1])
        self._stack.callback(client.socket.close)
        client.socket.sendall(sent)
        return client

    def ask(self) -> None:
        """Connect a new client, and check that it gets an answer."""
        client = self.connect()
        client.say("GET /")
        assert client.hear() == b"hello"
        client.socket.close()

    def ask_for(self, seconds: float, meanwhile: Callable[[], object]) -> None:
        """Check for `seconds` that new clients get answers, while silent ones connect."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for _ in range(LIMIT):
                self.connect()
            self.ask()
            meanwhile()

    def _wait_until_empty(self) -> None:
        """Wait until waitress has closed all connections, after all clients."""
        self.server.go_on.set()
        deadline = time.monotonic() + PATIENCE
        while self.open:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    @property
    def open(self) -> int:
        """Return the number of connections."""
        return sum(len(listener.active_channels) for listener in self.server.listeners)


Places = Callable[..., Place]


@pytest.fixture
def place() -> Iterator[Places]:
    """Make servers."""
    with ExitStack() as stack:
        yield lambda **adjustments: Place(stack, **(adjustments or {"listen": f"{LOOPBACK}:0"}))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the patience with transfers."""
    monkeypatch.setattr("sidecar.worker.patches.waitress.PATIENCE", SHORT)


@pytest.mark.parametrize("sent", [b"", HALF_A_HEAD, HEAD, HEAD + b"x"], ids=["silent", "head", "no body", "body"])
@pytest.mark.parametrize("where", ["one", "two", "unix"])
def test_who_keeps_it_waiting_makes_room(place: Places, tmp_path: Path, where: str, sent: bytes) -> None:
    """Twice as many connections as the limit: all are accepted, and a new one gets an answer."""
    listen = {"one": f"{LOOPBACK}:0", "two": f"{LOOPBACK}:0 {LOOPBACK}:0"}
    it = place(unix_socket=str(tmp_path / "s")) if where == "unix" else place(listen=listen[where])
    for _ in range(MANY):
        it.connect(sent)
    it.ask()
    assert it.open < LIMIT


@pytest.mark.parametrize(
    ("limits", "threads", "least", "most"),
    [((1024, 4096), 50, 700, 924), ((256, 4096), 50, 700, 924), ((128, 128), 50, 4, 28), ((64, 64), 50, 4, 4)],
)
def test_room_by_the_limit_of_descriptors(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], threads: int, least: int, most: int
) -> None:
    """The rest of the limit, less two for each thread; the soft limit is raised to what select() supports."""
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: raised.append(wanted))
    assert least <= waitress.room(threads) <= most
    assert raised == ([(1024, 4096)] if limits == (256, 4096) else [])


def test_a_url_that_cannot_be_split(place: Places, caplog: pytest.LogCaptureFixture) -> None:
    """400 as for any bad request, and no log line; waitress itself closes without an answer."""
    it = place()
    client = it.connect(b"GET http://[/ HTTP/1.1\r\nHost: x\r\n\r\n")
    client.socket.settimeout(PATIENCE)
    assert client.socket.recv(1000).startswith(b"HTTP/1.1 400 ")
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("come", [0, BUSY])
def test_a_crowd_is_let_in_at_once(place: Places, come: int) -> None:
    """The kernel's queue is accepted in one round of the loop if many are open, otherwise one a round."""
    it = place(listen=f"{LOOPBACK}:0", connection_limit=10 * BUSY)
    for _ in range(come):
        it.connect()
    it.ask()
    (listener,) = it.server.listeners
    readable, rounds, go_on = listener.readable, 0, threading.Event()

    def count() -> bool:
        nonlocal rounds
        rounds += it.open < come + BUSY
        return bool(readable())

    listener.trigger.pull_trigger(lambda: go_on.wait(PATIENCE))
    for _ in range(BUSY):
        it.connect()
    listener.readable = count
    go_on.set()
    deadline = time.monotonic() + PATIENCE
    while it.open < come + BUSY:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert rounds <= 3 if come else rounds >= BUSY - 3


@pytest.mark.parametrize("sent", [HALF_A_HEAD, HEAD], ids=["head", "body"])
def test_who_drips_makes_room(place: Places, sent: bytes) -> None:
    """An occasional byte doesn't count as progress."""
    it = place()
    drips = [it.connect(sent) for _ in range(MANY)]
    for _ in range(10):
        for each in drips:
            with suppress(OSError):  # it was closed
                each.socket.send(b"x")
        it.ask()


def test_the_longest_idle_goes_first(place: Places) -> None:
    """Keep-alive connections stay open while there is room; the least recently used is closed first."""
    it = place()
    clients = [it.connect() for _ in range(LIMIT // 2)]
    for client in [*clients, clients[0]]:
        client.say("GET /")
        assert client.hear() == b"hello"
        it.server.wait_until_idle()
    for _ in range(LIMIT - 4 - len(clients)):  # beside them: the listener, its trigger, and one place for a newcomer
        it.connect()
    clients[1].say("GET /")
    assert clients[1].hear() == b"hello", "there was room for all"
    it.server.wait_until_idle()
    for _ in range(3):
        it.ask()
        it.connect()
    assert clients[2].heard_the_end()
    for client in clients[:2]:
        client.say("GET /")
        assert client.hear() == b"hello"


@pytest.mark.slow
def test_who_is_busy_stays(place: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """Running requests, slow uploads and slow downloads finish."""
    patience = 3.0
    monkeypatch.setattr("sidecar.worker.patches.waitress.PATIENCE", patience)
    it = place()
    waiting, uploading, downloading = it.connect(), it.connect(), it.connect(DOWNLOAD)
    waiting.say("GET /wait")
    assert it.server.waiting.acquire(timeout=PATIENCE)
    size = 100 * STEP
    sent = 3 * STEP
    uploading.socket.sendall(HEAD.replace(b"1000000", str(size).encode()) + bytes(sent))

    def go_on() -> None:
        nonlocal sent
        uploading.socket.sendall(bytes(STEP // 2))
        sent += STEP // 2
        downloading._more()
        time.sleep(patience / 5)

    it.ask_for(3 * patience, go_on)
    uploading.socket.sendall(bytes(size - sent))
    assert uploading.hear() == str(size).encode()
    assert downloading.hear() == BODY
    it.server.go_on.set()
    assert waiting.hear() == b"hello"


def test_answers_that_nobody_reads_make_room(place: Places, short: None) -> None:
    """They are closed after the patience, even if they take all connections."""
    it = place()
    for _ in range(LIMIT + 5):
        it.connect(DOWNLOAD)
    before = time.monotonic()
    it.ask()
    assert time.monotonic() - before < PATIENCE / 2


def test_threads_that_wait_for_a_reader_make_room(place: Places, short: None) -> None:
    """Their answers exceed waitress' buffer; each new connection closes one, and frees its thread."""
    it = place(listen=f"{LOOPBACK}:0", outbuf_high_watermark=2**20)
    for _ in range(LIMIT - 5):
        it.connect(DOWNLOAD)
    asking = it.connect()
    asking.say("GET /")
    deadline = time.monotonic() + PATIENCE
    while not select.select([asking.socket], [], [], 0.02)[0]:
        assert time.monotonic() < deadline
        it.connect()
    assert asking.hear() == b"hello"


def test_uploads_that_come_no_further_make_room(place: Places, short: None) -> None:
    """Also after a first step."""
    it = place()
    for _ in range(LIMIT + 5):
        it.connect(HEAD + bytes(2 * STEP))
    before = time.monotonic()
    it.ask()
    assert time.monotonic() - before < PATIENCE / 2


@pytest.mark.alone
def test_a_limit_of_two_connections(place: Places) -> None:
    """A new connection has time to send its request."""
    it = place(listen=f"{LOOPBACK}:0", connection_limit=4)
    clients = []
    for _ in range(10):
        clients.append(it.connect())
        time.sleep(0.05)  # rounds of waitress' loop, in which it could have been closed
        clients[-1].say("GET /")
        assert clients[-1].hear() == b"hello"
