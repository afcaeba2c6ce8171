"""`sidecar.worker.patches.drain`: waitress accepts no new connection and finishes running requests."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.worker.patches.server import BODY, LOOPBACK, PATIENCE, Client, Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Make servers, and stop them at the end."""
    with ExitStack() as stack:

        def make(**adjustments: Any) -> Server:
            made = Server(**(adjustments or {"listen": f"{LOOPBACK}:0"}))
            stack.callback(made.stop)
            return made

        yield make


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    """Make clients, and close them at the end."""
    with ExitStack() as stack:

        def make(server: Server, listener: int = 0) -> Client:
            client = Client(server.drainer.addresses[listener])
            stack.callback(client.socket.close)
            return client

        yield make


def wait_until_closed(server: Server) -> None:
    """Wait until no listener accepts connections."""
    deadline = time.monotonic() + PATIENCE
    for address in server.drainer.addresses:
        while time.monotonic() < deadline:
            try:
                Client(address).socket.close()
                time.sleep(0.005)
            except (ConnectionRefusedError, FileNotFoundError):
                break
            except ConnectionResetError:  # closed during the connect
                continue
        else:
            pytest.fail(f"{address} still listens")


Servers = Callable[..., Server]
Clients = Callable[..., Client]


def test_nothing_runs(server: Servers) -> None:
    """The drain ends at once, and connections are refused."""
    it = server()
    assert it.drain().result(PATIENCE) == 0
    with pytest.raises(ConnectionRefusedError):
        Client(it.drainer.addresses[0])


def test_idle_connections_are_closed(server: Servers, connect: Clients) -> None:
    """Keep-alive connections are closed long before the grace ends."""
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
    """As of a load balancer that connects in advance: it has a moment for its first request, not the whole grace."""
    it = server()
    client = connect(it)
    before = time.monotonic()
    assert it.drain().result(PATIENCE) == 0
    assert time.monotonic() - before < PATIENCE / 2
    assert client.heard_the_end()


def test_a_running_download_finishes(server: Servers, connect: Clients) -> None:
    """To the last byte, however slowly the client reads; meanwhile connections are refused."""
    it = server()
    client = connect(it)
    client.say("GET /download")
    client._more()
    (channel,) = it.listeners[0].active_channels.values()
    deadline = time.monotonic() + PATIENCE
    while channel.requests:  # the app has passed everything to waitress
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
    """The second half arrives after the listener is closed, and the client gets an answer."""
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
    """The app is slow, and the answer arrives."""
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
    """Pipelined after a running request: waitress reads them from the kernel when that one is done."""
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
    """On an idle connection: the kernel has the request, and waitress has not read it yet."""
    it = server()
    client = connect(it)
    client.say("GET /")
    assert client.hear() == b"hello"
    (channel,) = it.listeners[0].active_channels.values()
    channel.readable = lambda: False  # the loop no longer reads, the kernel still receives
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
    """The kernel has completed their connections and has their requests, before waitress accepts them."""
    it = server()
    (listener,) = it.listeners
    listener.accepting = False  # the loop no longer accepts, the kernel still does
    listener.trigger.pull_trigger()
    clients = [connect(it) for _ in range(5)]
    for client in clients:
        client.say("GET /")
    assert not listener.active_channels
    drained = it.drain()
    assert [client.hear() for client in clients] == [b"hello"] * 5
    assert drained.result(PATIENCE) == 0


def test_a_crowd_in_the_kernels_queue_is_let_in_up_to_the_limit(server: Servers, connect: Clients) -> None:
    """More would end waitress' select(): the others are refused, running requests continue."""
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
    """It returns how many connections are still busy, and doesn't wait for them."""
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
    """The listener and idle connections are closed; nothing is waited for."""
    it = server()
    client = connect(it)
    client.say("GET /wait")
    assert it.waiting.acquire(timeout=PATIENCE)
    assert it.drain(0).result(PATIENCE) == 1
    with pytest.raises(ConnectionRefusedError):
        Client(it.drainer.addresses[0])


def test_who_hangs_up_is_not_waited_for(server: Servers, connect: Clients) -> None:
    """A client that disconnects during its upload doesn't delay the drain."""
    it = server()
    client = connect(it)
    client.begin_upload(b"x" * 1000)
    drained = it.drain()
    wait_until_closed(it)
    client.socket.close()
    assert drained.result(PATIENCE / 2) == 0


def test_a_unix_socket(server: Servers, connect: Clients, tmp_path: Path) -> None:
    """Running requests finish; the socket's file is left to the process that has bound it."""
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
    assert path.is_socket()


def test_several_listeners(server: Servers, connect: Clients) -> None:
    """All are closed, and running requests on each finish."""
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
    """No connection gets a descriptor that waitress' loop takes for a listener's in the current round."""
    monkeypatch.setattr("sidecar.worker.patches.drain._NEXT_REQUEST", PATIENCE)
    it = server(listen=" ".join([f"{LOOPBACK}:0"] * 3))
    it.hold_up()
    clients = [connect(it, number) for number in range(3)]
    drained = it.drain()
    deadline = time.monotonic() + PATIENCE
    while not it.listeners[0].trigger.thunks:  # the next round begins with three listeners and closes them
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
    """The drain ends soon after the grace, and returns the number of open connections."""
    it = server(listen=" ".join([f"{LOOPBACK}:0"] * 2))
    client = connect(it)
    client.say("GET /")
    assert client.hear() == b"hello"
    it.hold_up()
    before = time.monotonic()
    assert it.drain(0.1).result(PATIENCE) == 1
    assert 0.1 <= time.monotonic() - before < PATIENCE / 2


def test_a_loop_that_has_ended_is_not_waited_for(server: Servers) -> None:
    """If waitress' loop is dead, the drain ends at once."""
    it = server()
    it.stop()
    before = time.monotonic()
    assert it.drain().result(PATIENCE) == 0
    assert time.monotonic() - before < PATIENCE / 2


def test_addresses_are_those_that_were_bound(server: Servers) -> None:
    """Port 0 is replaced by the real one; an IPv6 address has brackets."""
    it = server(listen="127.0.0.1:0 [::1]:0") if socket.has_ipv6 else server(listen="127.0.0.1:0")
    first, *others = it.drainer.addresses
    assert first.startswith("http://127.0.0.1:")
    assert int(first.rpartition(":")[2]) > 0
    assert all(address.startswith("http://[::1]:") for address in others)


# --- connections between two requests -------------------------------------------------------------------------------


def closes(client: Client) -> list[bytes]:
    """Return the Connection headers of the last answer."""
    return [line.split(b": ")[1] for line in client.head if line.lower().startswith(b"connection:")]


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a used connection count as busy for a long time."""
    monkeypatch.setattr("sidecar.worker.patches.drain._NEXT_REQUEST", PATIENCE)


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("keep_listening", [False, True], ids=["stop", "restart"])
def test_a_next_request_soon_after_an_answer(server: Servers, connect: Clients, keep_listening: bool) -> None:
    """The client couldn't know of the drain: it gets an answer with `Connection: close`."""
    it = server()
    client = connect(it)
    client.say("GET /")
    assert client.hear() == b"hello"
    assert closes(client) == []
    drained = it.drain(keep_listening=keep_listening)
    wait_until_closed(it)
    client.say("GET /")
    assert client.hear() == b"hello"
    assert closes(client) == [b"close"]
    assert client.heard_the_end()
    assert drained.result(PATIENCE) == 0


def test_a_clock_that_is_set_back_holds_no_drain_up(server: Servers, connect: Clients) -> None:
    """A connection whose last activity is in the future counts as idle."""
    it = server()
    client = connect(it)
    client.say("GET /")
    assert client.hear() == b"hello"
    it.wait_until_idle()
    (channel,) = it.listeners[0].active_channels.values()
    channel.last_activity += 86400
    assert it.drain().result(PATIENCE / 2) == 0
    assert client.heard_the_end()


@pytest.mark.usefixtures("unhurried")
def test_the_last_of_several_requests_is_the_one_that_closes(server: Servers, connect: Clients) -> None:
    """Requests after the first are answered too, whether waitress has read them or the kernel still has them."""
    it = server()
    client = connect(it)
    client.socket.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\nGET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
    assert it.waiting.acquire(timeout=PATIENCE)
    client.socket.sendall(b"GET /c HTTP/1.1\r\nHost: x\r\n\r\n")
    drained = it.drain()
    wait_until_closed(it)
    it.go_on.set()
    said = []
    for _ in range(3):
        assert client.hear() == b"hello"
        said.append(closes(client))
    assert said == [[], [], [b"close"]]
    assert client.heard_the_end()
    assert drained.result(PATIENCE) == 0


@pytest.mark.usefixtures("unhurried")
def test_http_1_0_hears_of_it_once(server: Servers, connect: Clients) -> None:
    """A client that asked for keep-alive gets one Connection header: close."""
    it = server()
    client = connect(it)
    ask = b"GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n"
    client.socket.sendall(ask)
    assert client.hear() == b"hello"
    assert closes(client) == [b"Keep-Alive"]
    drained = it.drain()
    wait_until_closed(it)
    client.socket.sendall(ask)
    assert client.hear() == b"hello"
    assert closes(client) == [b"close"]
    assert drained.result(PATIENCE) == 0


# --- sockets that another process has bound --------------------------------------------------------------------------


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[Callable[[str], socket.socket]]:
    """Make listening sockets, and close them at the end."""
    with ExitStack() as stack:

        def make(kind: str) -> socket.socket:
            if kind == "Unix":
                made = stack.enter_context(socket.socket(socket.AF_UNIX))
                made.bind(str(tmp_path / "devpi.sock"))
            else:
                made = stack.enter_context(socket.socket())
                made.bind((LOOPBACK, 0))
            made.listen(1024)
            return made

        yield make


Bound = Callable[[str], socket.socket]


@pytest.mark.parametrize("kind", ["TCP", "Unix"])
def test_a_drain_for_a_restart_leaves_the_queue_alone(
    server: Servers, connect: Clients, bound: Bound, kind: str
) -> None:
    """No connection is refused; the next server answers those that wait."""
    ours = bound(kind)
    first = server(sockets=[ours.dup()])
    (listener,) = first.listeners
    busy = connect(first)
    busy.say("GET /wait")
    assert first.waiting.acquire(timeout=PATIENCE)
    listener.accepting = False  # the loop no longer accepts, the kernel still does
    listener.trigger.pull_trigger()
    before = [connect(first) for _ in range(5)]
    drained = first.drain(keep_listening=True)
    first.wait_until_listeners_are_closed()
    after = [connect(first) for _ in range(5)]
    for client in (*before, *after):
        client.say("GET /")
    assert [busy] == [busy for _ in listener.active_channels]
    first.go_on.set()
    assert busy.hear() == b"hello"
    assert closes(busy) == [b"close"]
    assert drained.result(PATIENCE) == 0
    second = server(sockets=[ours.dup()])
    assert second.drainer.addresses == first.drainer.addresses
    assert [client.hear() for client in (*before, *after)] == [b"hello"] * 10


@pytest.mark.parametrize("kind", ["TCP", "Unix"])
def test_a_drain_for_a_stop_lets_the_queue_in(server: Servers, connect: Clients, bound: Bound, kind: str) -> None:
    """It ends with the last of them, if the process that bound the socket has closed it."""
    ours = bound(kind)
    it = server(sockets=[ours.dup()])
    (listener,) = it.listeners
    listener.accepting = False
    listener.trigger.pull_trigger()
    clients = [connect(it) for _ in range(5)]
    for client in clients:
        client.say("GET /")
    ours.close()
    drained = it.drain()
    assert [client.hear() for client in clients] == [b"hello"] * 5
    assert drained.result(PATIENCE) == 0
    with pytest.raises(ConnectionRefusedError):
        connect(it)


def test_several_sockets_for_a_restart(server: Servers, connect: Clients, bound: Bound) -> None:
    """All sockets stay open."""
    ours = [bound("TCP") for _ in range(3)]
    first = server(sockets=[each.dup() for each in ours])
    assert first.drain(keep_listening=True).result(PATIENCE) == 0
    clients = [connect(first, number) for number in range(3)]
    second = server(sockets=[each.dup() for each in ours])
    assert second.drainer.addresses == first.drainer.addresses
    for client in clients:
        client.say("GET /")
    assert [client.hear() for client in clients] == [b"hello"] * 3


@pytest.mark.parametrize("kind", ["TCP", "Unix"])
def test_the_app_sees_no_difference(server: Servers, connect: Clients, bound: Bound, kind: str, tmp_path: Path) -> None:
    """The environ's server, client and scheme are as with a socket that waitress bound."""
    seen = []
    for arguments in (
        {"sockets": [bound(kind)]},
        {"unix_socket": str(tmp_path / "own.sock")} if kind == "Unix" else {"listen": f"{LOOPBACK}:0"},
    ):
        it = server(**arguments)
        client = connect(it)
        client.say("GET /environ")
        environ = json.loads(client.hear())
        assert environ.pop("SERVER_PORT") == it.drainer.addresses[0].removeprefix("unix:").rpartition(":")[2]
        seen.append(environ)
    assert seen[0] == seen[1]
    assert seen[0]["REMOTE_ADDR"] == ("localhost" if kind == "Unix" else "127.0.0.1")
