"""Thousands of connections to the sidecar's port, plain and with TLS: probes are answered, memory stays limited."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from testbed.sampling import rss
from tests.support.certificates import Authority
from tests.support.container import Container, wait_for

pytestmark = pytest.mark.alone

Make = Callable[..., Container]
MIB = 2**20


@pytest.fixture
def descriptors() -> Iterator[Callable[[int], None]]:
    """Set the maximum open files of this process, and of those that it starts from then on."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 3000:
        pytest.skip("this process may not open 3,000 files")
    yield lambda number: resource.setrlimit(resource.RLIMIT_NOFILE, (number, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def connect(opened: ExitStack, port: int, number: int, sent: bytes = b"") -> None:
    """Open so many connections, send this on each, and keep them."""
    for _ in range(number):
        each = opened.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        if sent:
            each.sendall(sent)


def probe(port: int) -> float:
    """Return the seconds of a /livez over a new connection, as a kubelet requests it."""
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), 10) as asking:
        asking.sendall(b"GET /livez HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        answer = b""
        while more := asking.recv(4096):
            answer += more
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    return time.monotonic() - begun


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nX: "], ids=["silent", "half a head"])
def test_two_thousand_connections(container: Make, descriptors: Callable[[int], None], sent: bytes) -> None:
    """99 of 100 /livez within 50 ms, while they connect and afterwards; at most 16 MiB for all of them.

    All of that under the usual limit of descriptors.
    """
    descriptors(1024)
    running = container().start().wait_ready()
    descriptors(3000)
    port = int(running.url.rpartition(":")[2])
    before = rss(running.pid)
    times = []
    with ExitStack() as opened:
        for _ in range(100):
            connect(opened, port, 20, sent)
            times.append(probe(port))
        times += [probe(port) for _ in range(200)]
        assert rss(running.pid) - before < 16 * MIB
        assert running.sidecar("healthcheck").returncode == 0
    assert sorted(times)[len(times) * 99 // 100 - 1] <= 0.05
    assert running.get("/readyz").status == 200


def test_silent_clients_of_a_port_with_tls(container: Make, descriptors: Callable[[int], None], tmp_path: Path) -> None:
    """A thousand handshakes that never complete take at most 48 KiB each, and the health check passes meanwhile."""
    descriptors(3000)
    running = container(env=Authority(tmp_path).issue("server").settings).start()
    wait_for((running.runtime / "address").exists, "the sidecar")
    wait_for(lambda: running.sidecar("healthcheck").returncode == 0, "a healthy container")
    port = int(running.url.rpartition(":")[2])
    before = rss(running.pid)
    with ExitStack() as opened:
        connect(opened, port, 1000)
        assert running.sidecar("healthcheck").returncode == 0
        assert rss(running.pid) - before < 1000 * 48 * 1024
