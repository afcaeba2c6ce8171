"""`sidecar.container.delivery`: the kernel's tables for real sockets, and for states that are hard to produce."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import socket
import struct
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidecar.container.delivery import SendQueues, Unsent

PATIENCE = 20.0
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
OURS = ("http://198.19.7.2:3141",)
"""`020713C6:0C45` on a little-endian machine."""


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition()` is true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@contextlib.contextmanager
def pair(listen: str, connect: str, family: socket.AddressFamily) -> Iterator[tuple[int, socket.socket, socket.socket]]:
    """A port, a connection accepted there, and the client's socket with small buffers."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family))
        if family is socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            listener.bind((listen, 0))
        except OSError as error:
            pytest.skip(f"NOT TESTED: this machine has no {listen}: {error}")
        listener.listen()
        port = listener.getsockname()[1]
        client = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in connect else socket.AF_INET))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        client.settimeout(PATIENCE)
        client.connect((connect, port))
        server, _ = listener.accept()
        yield port, stack.enter_context(server), client


def fill(server: socket.socket) -> None:
    """Send until the kernel accepts no more."""
    server.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            server.send(bytes(65536))


def queued(server: socket.socket) -> int:
    """Return the bytes in the send queue, by the kernel's TIOCOUTQ."""
    (size,) = struct.unpack("i", fcntl.ioctl(server, termios.TIOCOUTQ, b"\0" * 4))
    return int(size)


KINDS = {
    "IPv4": ("127.0.0.1", "127.0.0.1", socket.AF_INET, "http://127.0.0.1:{}"),
    "IPv4 of all": ("0.0.0.0", "127.0.0.1", socket.AF_INET, "http://0.0.0.0:{}"),
    "IPv6": ("::1", "::1", socket.AF_INET6, "http://[::1]:{}"),
    "IPv6 of all": ("::", "::1", socket.AF_INET6, "http://[::]:{}"),
    "mapped": ("::ffff:127.0.0.1", "127.0.0.1", socket.AF_INET6, "http://[::ffff:127.0.0.1]:{}"),
    "mapped of all": ("::", "127.0.0.1", socket.AF_INET6, "http://[::]:{}"),
}


@pytest.mark.parametrize(("listen", "connect", "family", "url"), KINDS.values(), ids=KINDS)
def test_real_sockets(listen: str, connect: str, family: socket.AddressFamily, url: str) -> None:
    """The figure equals the kernel's for an open socket, stays after a close, and is 0 once all is read."""
    with pair(listen, connect, family) as (port, server, client):
        queues = SendQueues([url.format(port)])
        assert Unsent() == queues.unsent()
        fill(server)
        wait_until(lambda: Unsent(1, queued(server)) == queues.unsent(), "the same figure")
        size = queued(server)
        server.close()
        assert 0 < queues.unsent().bytes <= size  # the client's kernel may receive a little more
        while client.recv(65536):
            pass
        wait_until(lambda: Unsent() == queues.unsent(), "an empty queue")


def test_the_half_that_the_client_has_closed() -> None:
    """CLOSE_WAIT, then LAST_ACK: a client that has sent everything still reads."""
    with pair("127.0.0.1", "127.0.0.1", socket.AF_INET) as (port, server, client):
        queues = SendQueues([f"http://127.0.0.1:{port}"])
        fill(server)
        client.shutdown(socket.SHUT_WR)
        wait_until(lambda: Unsent(1, queued(server)) == queues.unsent(), "the same figure")
        size = queued(server)
        server.close()
        assert 0 < queues.unsent().bytes <= size


def test_whose_sockets_are_not_ours() -> None:
    """Another port, another address with our port, and the client's side of a connection are not counted."""
    with pair("127.0.0.1", "127.0.0.1", socket.AF_INET) as (port, server, client):
        fill(server)
        fill(client)
        assert Unsent() == SendQueues(["http://127.0.0.1:1"]).unsent()
        assert Unsent() == SendQueues([f"http://127.0.0.2:{port}", "http://[::1]:1"]).unsent()
        assert 1 == SendQueues([f"http://127.0.0.2:{port}", f"http://127.0.0.1:{port}"]).unsent().connections


def test_a_listening_socket_sends_nothing() -> None:
    """A listening socket does not count, however many connections wait in its queue."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        assert Unsent() == SendQueues([f"http://127.0.0.1:{listener.getsockname()[1]}"]).unsent()


def test_unix_sockets_are_exempt(tmp_path: Path) -> None:
    """No table is read for them."""
    assert Unsent() == SendQueues([f"unix:{tmp_path}/s"], {4: tmp_path / "none", 6: tmp_path / "none"}).unsent()


STATES = {
    "ESTABLISHED": ("01", "000003E9", 1001),
    "SYN_RECV": ("03", "00000001", 0),
    "FIN_WAIT1": ("04", "000003E9", 1000),
    "FIN_WAIT1, the FIN alone": ("04", "00000001", 0),
    "FIN_WAIT2": ("05", "00000000", 0),
    "TIME_WAIT": ("06", "00000000", 0),
    "CLOSE_WAIT": ("08", "00000001", 1),
    "LAST_ACK": ("09", "00000003", 2),
    "LAST_ACK, the FIN alone": ("09", "00000001", 0),
    "LISTEN": ("0A", "00000005", 0),
    "CLOSING": ("0B", "00000003", 2),
    "NEW_SYN_RECV": ("0C", "00000001", 0),
}


@pytest.mark.parametrize(("state", "queue", "expected"), STATES.values(), ids=STATES)
def test_states(tmp_path: Path, state: str, queue: str, expected: int) -> None:
    """A FIN counts as one in the table, as observed with a peer that was cut off, and is not a byte of an answer."""
    host = socket.htonl(int.from_bytes(socket.inet_aton("198.19.7.2"), "big"))
    rest = "01:0000001F 00000001     0        0 0 1 0000000000000000 20 4 30 10 -1\n"
    table = tmp_path / "tcp"
    table.write_text(f"{HEAD}   1: {host:08X}:0C45 010713C6:97FE {state} {queue}:00000000 {rest}")
    assert Unsent(int(expected > 0), expected) == SendQueues(OURS, {4: table, 6: table}).unsent()


@pytest.mark.parametrize("content", [None, HEAD + "what is this\n", HEAD + "\xff"], ids=["absent", "odd", "binary"])
def test_a_table_that_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str | None) -> None:
    """It is logged once and skipped: the other table still counts."""
    odd = tmp_path / "tcp6"
    if content is not None:
        odd.write_text(content, encoding="latin-1")
    with pair("127.0.0.1", "127.0.0.1", socket.AF_INET) as (port, server, _):
        fill(server)
        queues = SendQueues([f"http://127.0.0.1:{port}", "http://[::1]:1"], {4: Path("/proc/self/net/tcp"), 6: odd})
        with caplog.at_level(logging.WARNING):
            assert 1 == queues.unsent().connections == queues.unsent().connections
    (record,) = caplog.records
    assert str(odd) in record.getMessage()


async def test_waiting_until_it_is_sent() -> None:
    """It returns when the client has read everything, and not before; the event loop is not blocked."""
    with pair("127.0.0.1", "127.0.0.1", socket.AF_INET) as (port, server, client):
        fill(server)
        server.close()
        waiting = asyncio.create_task(SendQueues([f"http://127.0.0.1:{port}"]).sent())
        done, _ = await asyncio.wait({waiting}, timeout=0.6)  # two reads
        assert not done
        while await asyncio.to_thread(client.recv, 65536):
            pass
        await asyncio.wait_for(waiting, PATIENCE)


async def test_a_busy_machine_does_not_delay_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that waits for the CPU takes long by the clock; the pause after it is proportional to its CPU time."""
    pauses: list[float] = []
    answers = iter([Unsent(1, 1), Unsent(1, 1), Unsent()])

    class Slow(SendQueues):
        def unsent(self) -> Unsent:
            time.sleep(0.2)
            return next(answers)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("sidecar.container.delivery.asyncio.sleep", sleep)
    await Slow(OURS).sent()
    assert len(pauses) == 2
    assert max(pauses) < 10 * 0.2
