"""More connections to devpi-server's port than its limit, silent or slow: it stays ready, and serves."""

from __future__ import annotations

import os
import re
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest

from sidecar.worker.patches.waitress import PATIENCE, STEP
from tests.support import needs
from tests.support.container import Container, call_devpi, login_token, make_index, request, upload, upload_form
from tests.support.transfers import auth_header, connected

pytestmark = pytest.mark.alone

LIMIT = 100
"""devpi-server's own."""
DEAD_AFTER = 8.0
"""Seconds without an answer to a probe after which the server is not ready."""
HELD = DEAD_AFTER + 5
"""Seconds for which the connections stay."""
OPENINGS = (
    b"",
    b"GET /+api HTTP/1.1\r\nX: ",
    b"POST /root/dev/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
)
"""Silent, half a head, and a head without its body."""


@contextmanager
def crowded(devpi: str) -> Iterator[None]:
    """50 connections above the limit: those that are cut reconnect, those that are open send a byte a second."""
    address = urlsplit(devpi)
    over = threading.Event()
    with ExitStack() as opened:

        def come(opening: bytes) -> socket.socket:
            client = opened.enter_context(socket.create_connection((address.hostname, address.port), 10))
            client.sendall(opening)
            return client

        clients = [come(OPENINGS[number % 3]) for number in range(LIMIT + 50)]

        def go_on() -> None:
            while not over.wait(1):
                for number, client in enumerate(clients):
                    opening = OPENINGS[number % 3]
                    try:
                        client.sendall(opening and b"x")
                        if client.recv(1, socket.MSG_DONTWAIT) == b"":
                            raise ConnectionResetError
                    except BlockingIOError:
                        pass
                    except OSError:
                        clients[number] = come(opening)

        dripping = threading.Thread(target=go_on)
        dripping.start()
        try:
            yield
        finally:
            over.set()
            dripping.join()


def test_connections_that_ask_nothing(container: Callable[..., Container]) -> None:
    """For longer than a server may be without an answer to a probe, and with a slow upload meanwhile."""
    password = "the root password of these tests"
    env = {"DEVPI_PASSWORD": password, "SIDECAR_MONITOR_DEAD_AFTER": str(DEAD_AFTER)}
    running = container(env=env).start().wait_ready()
    devpi = running.devpi
    token = login_token(devpi, password)
    index = make_index(devpi, token)
    link = upload(index, token, "there", b"content").partition("#")[0]
    content = os.urandom(100 * STEP)
    form, kind = upload_form("slow", content)
    with connected(index) as slow:
        slow.sendall(
            f"POST {urlsplit(index).path}/ HTTP/1.0\r\nHost: x\r\nAccept: application/json\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(form)}\r\n{auth_header(token)}\r\n".encode()
        )
        slow.sendall(form[:STEP])
        sent = STEP
        with crowded(devpi):
            until = time.monotonic() + HELD
            while time.monotonic() < until:
                begun = time.monotonic()
                assert request(link).body == b"content"
                assert running.get("/readyz").status == 200
                assert time.monotonic() - begun < 2
                slow.sendall(form[sent : sent + STEP])
                sent += STEP
                time.sleep(PATIENCE / 4)
            slow.sendall(form[sent:])
            assert int(slow.recv(4096).split()[1]) == 200
    (uploaded,) = call_devpi(f"{index}/slow", token=token).json["result"]["1.0"]["+links"]
    assert content == request(devpi + urlsplit(uploaded["href"]).path).body
    assert "no longer accepting" not in running.log


def open_descriptors(running: Container) -> int:
    """Return devpi-server's descriptors by `/metrics`: only root can read its `/proc/PID/fd`."""
    found = re.search(r"^devpi_server_process_open_fds (\S+)$", running.get("/metrics").body.decode(), re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


@pytest.mark.parametrize("when", ["while it serves", "from the start"])
def test_descriptors_run_out(container: Callable[..., Container], when: str) -> None:
    """New clients are answered, the container stays ready, and the log has at most one line if descriptors ran out.

    Plain waitress logs 20,000 tracebacks in seconds, and answers no client.
    """
    running = container()
    if when == "from the start":
        running.command = (needs.program("prlimit", "util-linux"), "--nofile=96", *running.arguments[:2])
    running.start().wait_ready()
    if when == "while it serves":
        few = open_descriptors(running) + 10
        resource.prlimit(running.devpi_pid, resource.RLIMIT_NOFILE, (few, few))
    before = len(running.log)
    address = urlsplit(running.devpi)
    with ExitStack() as opened:
        for _ in range(LIMIT - 10):
            opened.enter_context(socket.create_connection((address.hostname, address.port), 10))
        for _ in range(20):
            assert request(f"{running.devpi}/+api").status == 200
        assert running.get("/readyz").status == 200
    said = running.log[before:]
    assert "Traceback" not in said
    assert said.count("no more can be: Too many open files") == (when == "while it serves")
    assert len(said.splitlines()) < 60
    assert running.stop() == 0
