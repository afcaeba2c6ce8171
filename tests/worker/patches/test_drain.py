"""`sidecar.worker.patches.drain`: waitress takes no new connection, and what runs on it comes to its end."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from waitress import wasyncore
from waitress.server import create_server

from sidecar.worker.patches.drain import Drainer
from sidecar.worker.patches.waitress import Crowd

PATIENCE = 60.0
"""Seconds after which what a test waits for counts as failed; also a grace that no test uses up."""
BODY = b"0123456789abcdef" * 500_000
"""8 MB: more than the kernel's buffers and waitress' first buffer take."""

LOOPBACK = f"127.{os.getpid() >> 16 & 127}.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"
"""An address of this process' own: a port that was closed here is not taken by the tests that run beside these."""

Environ = dict[str, Any]


class Server:
    """waitress in a thread, with an app that downloads, uploads, and waits until told otherwise."""

    def __init__(self, **adjustments: Any) -> None:
        self.go_on = threading.Event()
        self.waiting = threading.Semaphore(0)
        self._server = create_server(self.app, threads=8, **adjustments)
        self._map = self._server.map if hasattr(self._server, "map") else self._server._map
        self.drainer = Drainer(self._server)
        Crowd(self.drainer.listeners)
        self._thread = threading.Thread(target=self._server.run, name="waitress")
        self._thread.start()

    def app(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """`/download`, `/upload`, `/wait`, and everything else at once."""
        path, body = environ["PATH_INFO"], b"hello"
        if path == "/download":
            body = BODY
        elif path == "/upload":
            body = str(len(environ["wsgi.input"].read())).encode()
        elif path == "/wait":
            self.waiting.release()
            assert self.go_on.wait(PATIENCE)
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body[start : start + 65536] for start in range(0, len(body), 65536)]

    @property
    def listeners(self) -> list[Any]:
        """waitress' listening dispatchers."""
        return self.drainer.listeners

    def drain(self, grace: float = PATIENCE) -> Future[int]:
        """Begin to drain; the future has how many connections were cut."""
        drained: Future[int] = Future()
        threading.Thread(target=lambda: drained.set_result(self.drainer.drain(grace)), daemon=True).start()
        return drained

    def hold_up(self) -> None:
        """Keep waitress' loop, from now on and until `go_on`, at something that isn't the first listener's."""
        held = threading.Event()

        def hold() -> None:
            held.set()
            assert self.go_on.wait(PATIENCE)

        self.listeners[1].trigger.pull_trigger(hold)
        assert held.wait(PATIENCE)

    def stop(self) -> None:
        """End waitress' loop, whatever is connected."""
        self.go_on.set()
        if self._thread.is_alive():
            with suppress(OSError):  # the trigger may be closed by what it was pulled for, before this has pulled it
                self.listeners[0].trigger.pull_trigger(lambda: wasyncore.close_all(self._map))
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self._server.task_dispatcher.shutdown()


class Client:
    """One connection; what it says and hears, byte by byte."""

    def __init__(self, address: str) -> None:
        if address.startswith("unix:"):
            self.socket = socket.socket(socket.AF_UNIX)
        else:
            self.socket = socket.socket()
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.socket.settimeout(PATIENCE)
        try:
            if address.startswith("unix:"):
                self.socket.connect(address.removeprefix("unix:"))
            else:
                host, _, port = address.removeprefix("http://").rpartition(":")
                self.socket.connect((host, int(port)))
        except OSError:
            self.socket.close()
            raise
        self._rest = b""

    def say(self, text: str, body: bytes = b"") -> None:
        self.socket.sendall(f"{text} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    def begin_upload(self, body: bytes) -> None:
        """The head of an upload and the first half of its body."""
        self.socket.sendall(f"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        self.socket.sendall(body[: len(body) // 2])

    def hear(self) -> bytes:
        """One answer's body."""
        while b"\r\n\r\n" not in self._rest:
            self._more()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        (length,) = (
            int(line.split(b":")[1]) for line in head.splitlines() if line.lower().startswith(b"content-length")
        )
        while len(self._rest) < length:
            self._more()
        body, self._rest = self._rest[:length], self._rest[length:]
        return body

    def _more(self) -> None:
        more = self.socket.recv(65536)
        assert more, "the connection was cut"
        self._rest += more

    def heard_the_end(self) -> bool:
        """Whether the server has closed the connection, and said nothing more; waits for either."""
        try:
            return self.socket.recv(1) == b"" and not self._rest
        except ConnectionResetError:
            return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Makes servers, and stops them at the end."""
    with ExitStack() as stack:

        def make(**adjustments: Any) -> Server:
            made = Server(**(adjustments or {"listen": f"{LOOPBACK}:0"}))
            stack.callback(made.stop)
            return made

        yield make


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    """Makes clients, and closes them at the end."""
    with ExitStack() as stack:

        def make(server: Server, listener: int = 0) -> Client:
            client = Client(server.drainer.addresses[listener])
            stack.callback(client.socket.close)
            return client

        yield make


def wait_until_closed(server: Server) -> None:
    """Until no listener takes a connection any more."""
    deadline = time.monotonic() + PATIENCE
    for address in server.drainer.addresses:
        while time.monotonic() < deadline:
            try:
                Client(address).socket.close()
                time.sleep(0.005)
            except (ConnectionRefusedError, FileNotFoundError):
                break
            except ConnectionResetError:  # it was closed while we connected
                continue
        else:
            pytest.fail(f"{address} still listens")


Servers = Callable[..., Server]
Clients = Callable[..., Client]


def test_nothing_runs(server: Servers) -> None:
    """Over at once, and nobody is let in any more."""
    it = server()
    assert it.drain().result(PATIENCE) == 0
    with pytest.raises(ConnectionRefusedError):
        Client(it.drainer.addresses[0])


def test_idle_connections_are_closed(server: Servers, connect: Clients) -> None:
    """Kept alive for a next request, which won't be answered here: closed, long before the grace is over."""
    it = server()
    clients = [connect(it) for _ in range(3)]
    for client in clients:
        client.say("GET /")
        assert client.hear() == b"hello"
    before = time.monotonic()
    assert it.drain().result(PATIENCE) == 0
    assert time.monotonic() - before < PATIENCE / 2
    assert all(client.heard_the_end() for client in clients)


def test_a_connection_that_says_nothing_is_closed(server: Servers, connect: Clients) -> None:
    """A load balancer's connection in advance: it gets a moment for its first request, not the whole grace."""
    it = server()
    client = connect(it)
    before = time.monotonic()
    assert it.drain().result(PATIENCE) == 0
    assert time.monotonic() - before < PATIENCE / 2
    assert client.heard_the_end()


def test_a_running_download_finishes(server: Servers, connect: Clients) -> None:
    """To its last byte, however slowly it is read; meanwhile nobody else is let in."""
    it = server()
    client = connect(it)
    client.say("GET /download")
    client._more()
    (channel,) = it.listeners[0].active_channels.values()
    deadline = time.monotonic() + PATIENCE
    while channel.requests:  # the app has given all of it to waitress
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert channel.total_outbufs_len
    drained = it.drain()
    wait_until_closed(it)
    assert not drained.done()
    assert client.hear() == BODY
    assert drained.result(PATIENCE) == 0
    assert client.heard_the_end()


def test_a_running_upload_finishes(server: Servers, connect: Clients) -> None:
    """Its second half arrives after the listener is closed, and it is answered."""
    it = server()
    client = connect(it)
    body = b"x" * 200_000
    client.begin_upload(body)
    drained = it.drain()
    wait_until_closed(it)
    assert not drained.done()
    client.socket.sendall(body[len(body) // 2 :])
    assert client.hear() == b"200000"
    assert drained.result(PATIENCE) == 0


def test_a_request_that_is_being_worked_on_finishes(server: Servers, connect: Clients) -> None:
    """The app takes its time, and the answer arrives."""
    it = server()
    client = connect(it)
    client.say("GET /wait")
    assert it.waiting.acquire(timeout=PATIENCE)
    drained = it.drain()
    wait_until_closed(it)
    assert not drained.done()
    it.go_on.set()
    assert client.hear() == b"hello"
    assert drained.result(PATIENCE) == 0


def test_requests_in_one_packet_are_all_answered(server: Servers, connect: Clients) -> None:
    """Pipelined behind one that runs: the kernel has them, waitress reads them when that one is done."""
    it = server()
    client = connect(it)
    client.say("GET /wait")
    assert it.waiting.acquire(timeout=PATIENCE)
    client.socket.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n")
    drained = it.drain()
    wait_until_closed(it)
    it.go_on.set()
    assert [client.hear() for _ in range(3)] == [b"hello"] * 3
    assert drained.result(PATIENCE) == 0


def test_a_request_that_has_just_arrived_is_answered(server: Servers, connect: Clients) -> None:
    """On a connection that was idle until then: the kernel has it, waitress has not come to read it."""
    it = server()
    client = connect(it)
    client.say("GET /")
    assert client.hear() == b"hello"
    (channel,) = it.listeners[0].active_channels.values()
    channel.readable = lambda: False  # the loop looks at it no more, the kernel still takes data
    looked = threading.Semaphore(0)
    close_idle = it.drainer._close_idle

    def look() -> int:
        busy = close_idle()
        looked.release()
        return busy

    it.drainer._close_idle = look  # type: ignore[method-assign]
    it.listeners[0].trigger.pull_trigger()
    client.say("GET /")
    drained = it.drain()
    assert looked.acquire(timeout=PATIENCE)
    del channel.readable
    it.listeners[0].trigger.pull_trigger()
    assert client.hear() == b"hello"
    assert drained.result(PATIENCE) == 0


def test_who_waits_in_the_kernels_queue_gets_an_answer(server: Servers, connect: Clients) -> None:
    """The kernel has let them in, and they have asked: waitress had only not come to accept them."""
    it = server()
    (listener,) = it.listeners
    listener.accepting = False  # the loop looks at it no more, the kernel still takes connections
    listener.trigger.pull_trigger()
    clients = [connect(it) for _ in range(5)]
    for client in clients:
        client.say("GET /")
    assert not listener.active_channels
    drained = it.drain()
    assert [client.hear() for client in clients] == [b"hello"] * 5
    assert drained.result(PATIENCE) == 0


def test_a_crowd_in_the_kernels_queue_is_let_in_up_to_the_limit(server: Servers, connect: Clients) -> None:
    """Too many would end waitress in its select(): the others are turned away, what runs goes on."""
    it = server(listen=f"{LOOPBACK}:0", connection_limit=12)
    running = connect(it)
    running.say("GET /wait")
    assert it.waiting.acquire(timeout=PATIENCE)
    (listener,) = it.listeners
    listener.accepting = False
    listener.trigger.pull_trigger()
    crowd = [connect(it) for _ in range(30)]
    for client in crowd:
        client.say("GET /")
    drained = it.drain()
    answered = 0
    for client in crowd:
        with suppress(AssertionError, ConnectionError):
            answered += client.hear() == b"hello"
    assert 5 <= answered <= 12
    it.go_on.set()
    assert running.hear() == b"hello"
    assert drained.result(PATIENCE) == 0


def test_when_the_grace_is_over(server: Servers, connect: Clients) -> None:
    """It tells how many connections were still busy, and doesn't wait for them."""
    it = server()
    waiting, uploading, idle = connect(it), connect(it), connect(it)
    idle.say("GET /")
    assert idle.hear() == b"hello"
    waiting.say("GET /wait")
    assert it.waiting.acquire(timeout=PATIENCE)
    uploading.begin_upload(b"x" * 1000)
    before = time.monotonic()
    assert it.drain(0.3).result(PATIENCE) == 2
    assert 0.3 <= time.monotonic() - before < PATIENCE / 2
    assert idle.heard_the_end()


def test_no_grace_at_all(server: Servers, connect: Clients) -> None:
    """The listener is closed, idle connections too, and that was it."""
    it = server()
    client = connect(it)
    client.say("GET /wait")
    assert it.waiting.acquire(timeout=PATIENCE)
    assert it.drain(0).result(PATIENCE) == 1
    with pytest.raises(ConnectionRefusedError):
        Client(it.drainer.addresses[0])


def test_who_hangs_up_is_not_waited_for(server: Servers, connect: Clients) -> None:
    """A client that leaves in the middle of its upload is no reason to wait out the grace."""
    it = server()
    client = connect(it)
    client.begin_upload(b"x" * 1000)
    drained = it.drain()
    wait_until_closed(it)
    client.socket.close()
    assert drained.result(PATIENCE / 2) == 0


def test_a_unix_socket_is_removed(server: Servers, connect: Clients, tmp_path: Path) -> None:
    """Its file says that somebody listens; what runs on it finishes all the same."""
    path = tmp_path / "devpi.sock"
    it = server(unix_socket=str(path))
    assert it.drainer.addresses == (f"unix:{path}",)
    client = connect(it)
    client.say("GET /wait")
    assert it.waiting.acquire(timeout=PATIENCE)
    drained = it.drain()
    wait_until_closed(it)
    it.go_on.set()
    assert client.hear() == b"hello"
    assert drained.result(PATIENCE) == 0
    assert not path.exists()


def test_several_listeners(server: Servers, connect: Clients) -> None:
    """All of them are closed, and what runs on each of them finishes."""
    it = server(listen=" ".join([f"{LOOPBACK}:0"] * 3))
    assert len(set(it.drainer.addresses)) == 3
    clients = [connect(it, number) for number in range(3)]
    for client in clients:
        client.say("GET /wait")
        assert it.waiting.acquire(timeout=PATIENCE)
    drained = it.drain()
    wait_until_closed(it)
    assert not drained.done()
    it.go_on.set()
    assert [client.hear() for client in clients] == [b"hello"] * 3
    assert drained.result(PATIENCE) == 0


def test_who_waits_at_several_listeners_is_let_in(
    server: Servers, connect: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection gets no descriptor that waitress' loop, in its present round, takes for a listener's."""
    monkeypatch.setattr("sidecar.worker.patches.drain._FIRST_REQUEST", PATIENCE)
    it = server(listen=" ".join([f"{LOOPBACK}:0"] * 3))
    it.hold_up()
    clients = [connect(it, number) for number in range(3)]
    drained = it.drain()
    deadline = time.monotonic() + PATIENCE
    while not it.listeners[0].trigger.thunks:  # the next round sees three listeners, and is told to close them
        assert time.monotonic() < deadline
        time.sleep(0.005)
    it.go_on.set()
    wait_until_closed(it)
    for client in clients:
        client.say("GET /")
    assert [client.hear() for client in clients] == [b"hello"] * 3
    for client in clients:
        client.socket.close()
    assert drained.result(PATIENCE) == 0


def test_a_loop_that_is_stuck_is_not_waited_for(server: Servers, connect: Clients) -> None:
    """Whatever holds waitress' loop up: the drain ends soon after the grace, and counts what is open."""
    it = server(listen=" ".join([f"{LOOPBACK}:0"] * 2))
    client = connect(it)
    client.say("GET /")
    assert client.hear() == b"hello"
    it.hold_up()
    before = time.monotonic()
    assert it.drain(0.1).result(PATIENCE) == 1
    assert 0.1 <= time.monotonic() - before < PATIENCE / 2


def test_a_loop_that_has_ended_is_not_waited_for(server: Servers) -> None:
    """waitress' loop is dead: the drain says so by ending at once."""
    it = server()
    it.stop()
    before = time.monotonic()
    assert it.drain().result(PATIENCE) == 0
    assert time.monotonic() - before < PATIENCE / 2


def test_addresses_are_those_that_were_bound(server: Servers) -> None:
    """Port 0 has become a real one; an IPv6 address stands in brackets."""
    it = server(listen="127.0.0.1:0 [::1]:0") if socket.has_ipv6 else server(listen="127.0.0.1:0")
    first, *others = it.drainer.addresses
    assert first.startswith("http://127.0.0.1:")
    assert int(first.rpartition(":")[2]) > 0
    assert all(address.startswith("http://[::1]:") for address in others)
