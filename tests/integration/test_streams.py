"""What it costs that many look at the page of a real container, while nothing happens."""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from bench.sampling import rss
from tests.integration.container import Container

STREAMS = 200
MEMORY = 20 * 2**20
CPU = 0.02
"""Seconds of CPU a second."""


def cpu(pid: int) -> float:
    """Seconds so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def share(pid: int, until: Callable[[], None]) -> float:
    """Seconds of CPU a second, for as long as `until` takes."""
    began, used = time.monotonic(), cpu(pid)
    until()
    return (cpu(pid) - used) / (time.monotonic() - began)


def heard(streams: list[socket.socket], words: bytes) -> None:
    """Return once each stream has told the words, in what it tells from now on."""
    told = dict.fromkeys(streams, b"")
    with selectors.DefaultSelector() as selector:
        for each in streams:
            selector.register(each, selectors.EVENT_READ)
        deadline = time.monotonic() + 60
        while waiting := selector.get_map():
            assert time.monotonic() < deadline, f"{len(waiting)} streams have told nothing"
            for key, _ in selector.select(1):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                got = connection.recv(1 << 16)
                assert got, "a stream has ended"
                told[connection] += got
                if words in told[connection]:
                    selector.unregister(connection)


def test_two_hundred_pages_while_nothing_happens(container: Callable[..., Container]) -> None:
    """At most 20 MiB and 2 % of a core more than with one, over two pulses."""
    looked = container(env={"SIDECAR_MONITOR_INTERVAL": "2"}).start().wait_ready()
    address = urlsplit(looked.url)
    with ExitStack() as stack:

        def stream() -> socket.socket:
            connection = socket.create_connection((address.hostname, address.port), timeout=20)
            connection.sendall(b"GET /events HTTP/1.1\r\nHost: h\r\n\r\n")
            return stack.enter_context(connection)

        one = [stream()]
        heard(one, b"\nid: ")
        alone = share(looked.pid, lambda: heard(one, b"event: "))
        before = rss(looked.pid)
        many = one + [stream() for _ in range(STREAMS - 1)]
        heard(many[1:], b"\nid: ")
        took = rss(looked.pid) - before
        heard(many, b"event: ")
        costs = share(looked.pid, lambda: heard(many, b"event: ")) - alone
        print(f"{STREAMS} streams: {took / 2**20:.1f} MiB, {100 * costs:.2f} % of a core beside {100 * alone:.2f} %")
        assert took <= MEMORY
        assert costs <= CPU
        began = time.monotonic()
        assert 0 == looked.stop()
        assert time.monotonic() - began < 10
