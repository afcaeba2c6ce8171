"""Drained means delivered: a stop waits for the kernel's send queues, which a container's end drops."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.container import (
    Container,
    login_token,
    make_index,
    request,
    upload,
    wait_for,
)
from tests.support.networks import Network, network
from tests.support.transfers import connected, downloading

pytestmark = pytest.mark.slow

SMALL = 300_000
"""Bytes of a file that the kernel accepts at once, and that exceed the reader's own buffers."""
LARGE = 3_000_000
RATE = 300_000
"""Bytes per second of a slow client: it is many seconds behind the kernel."""
PASSWORD = "the root password of these tests"
DELIVERING = "still being delivered"
CUT = re.compile(r"WARN.* (\d+) bytes on (\d+) connections? were not delivered")


def serve_file(c: Container, size: int) -> tuple[str, bytes]:
    """Start it with a file; return the file's link and content."""
    c.env["DEVPI_PASSWORD"] = PASSWORD
    c.start().wait_ready()
    content = os.urandom(size)
    token = login_token(c.devpi, PASSWORD)
    return upload(make_index(c.devpi, token), token, "big", content).partition("#")[0], content


@pytest.fixture
def net() -> Iterator[Network]:
    """A network namespace."""
    with network() as made:
        yield made


@pytest.fixture
def boxed(container: Callable[..., Container], net: Network) -> Callable[..., Container]:
    """A container in that network namespace, not started yet."""

    def make(**env: str) -> Container:
        return container(command=net.command, flags=net.flags, env={"SIDECAR_HOST": net.inside, **env})

    return make


# --- in a network that goes with the process --------------------------------------------------------------------------


def test_a_slow_download_is_delivered(boxed: Callable[..., Container], net: Network) -> None:
    """All of it arrives, although the network is removed at the end of the process; code 0."""
    c = boxed()
    link, content = serve_file(c, LARGE)
    with downloading(link) as rest:
        net.remove_with(c)
        os.kill(c.pid, signal.SIGTERM)
        assert content == rest(RATE)
    assert 0 == c.wait_end()
    assert not CUT.search(c.log)


def test_a_client_that_begins_to_read_late(boxed: Callable[..., Container], net: Network) -> None:
    """It reads only after devpi-server has exited: all is in the kernel then, and all of it arrives."""
    c = boxed()
    link, content = serve_file(c, SMALL)
    with downloading(link) as rest:
        net.remove_with(c)
        os.kill(c.pid, signal.SIGTERM)
        wait_for(lambda: DELIVERING in c.log or not net.exists, "devpi-server's exit")
        assert content == rest()
    assert 0 == c.wait_end()


def test_a_client_that_has_vanished_costs_the_grace(boxed: Callable[..., Container], net: Network) -> None:
    """It can't be known that it won't come back; what was not delivered is logged, and the code is 0."""
    c = boxed(SIDECAR_STOP_GRACE="4")
    link, _ = serve_file(c, SMALL)
    with downloading(link):
        net.cut()
        began = time.monotonic()
        os.kill(c.pid, signal.SIGTERM)
        assert 0 == c.wait_end()
        assert 4 <= time.monotonic() - began < 20, "and not much more"
    (cut,) = CUT.finditer(c.log)
    assert "1" == cut[2]
    assert 0 < int(cut[1]) <= SMALL + 1000


def test_an_idle_client_that_has_vanished_costs_nothing(boxed: Callable[..., Container], net: Network) -> None:
    """It has its whole answer; it does not acknowledge the end of its connection, for which no wait is needed."""
    c = boxed()
    c.start().wait_ready()
    with connected(c.devpi) as client:
        client.sendall(b"GET /+api HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while b"authstatus" not in answer:
            answer += client.recv(65536)
        net.cut()
        began = time.monotonic()
        os.kill(c.pid, signal.SIGTERM)
        assert 0 == c.wait_end()
        assert time.monotonic() - began < 12, "the grace is 25 s"
    assert DELIVERING not in c.log


# --- on the loopback --------------------------------------------------------------------------------------------------


@pytest.fixture
def waiting(container: Callable[..., Container]) -> Iterator[tuple[Container, Callable[[], bytes], bytes]]:
    """A running stop that waits only for a client: how that reads, and what it should get."""
    c = container(env={"SIDECAR_STOP_GRACE": "60"})
    link, content = serve_file(c, SMALL)
    with downloading(link) as rest:
        os.kill(c.pid, signal.SIGTERM)
        wait_for(lambda: not c.running or DELIVERING in c.log, "devpi-server's exit")
        assert c.running
        yield c, rest, content


def test_it_is_alive_while_it_waits(waiting: tuple[Container, Callable[[], bytes], bytes]) -> None:
    """`/livez` answers, `/status` has `stopping`; the process exits when the client has read."""
    c, rest, content = waiting
    assert (200, 503) == (c.get("/livez").status, c.get("/readyz").status)
    assert "stopping" == c.status()["phase"]
    began = time.monotonic()
    assert content == rest()
    assert 0 == c.wait_end()
    assert time.monotonic() - began < 30, "half of the grace"
    assert "stopped" in c.log.splitlines()[-1]
    assert not CUT.search(c.log)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_second_signal_cuts_it_short(
    waiting: tuple[Container, Callable[[], bytes], bytes], second: signal.Signals
) -> None:
    """At once, with code 0, and what is not delivered is logged."""
    c, _, _ = waiting
    began = time.monotonic()
    os.kill(c.pid, second)
    assert 0 == c.wait_end()
    assert time.monotonic() - began < 20
    assert 1 == len(CUT.findall(c.log))


def test_the_grace_is_one_for_drain_and_delivery(container: Callable[..., Container]) -> None:
    """The time that the drain used is not available for the delivery."""
    c = container(env={"SIDECAR_STOP_GRACE": "2"})
    link, _ = serve_file(c, 24 * 2**20)
    with downloading(link):
        os.kill(c.pid, signal.SIGTERM)
        assert 0 == c.wait_end()
    assert "1 transfers did not finish" in c.log
    assert f"{DELIVERING}, waiting up to 0 s" in c.log
    assert 1 == len(CUT.findall(c.log))


def test_nothing_is_waited_for_where_nothing_is_unsent(container: Callable[..., Container]) -> None:
    """A connection of the sidecar's own port with an unread answer does not delay a stop."""
    c = container().start().wait_ready()
    with connected(c.url) as client:
        client.sendall(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
        assert 200 == request(f"{c.devpi}/+api").status
        began = time.monotonic()
        assert 0 == c.stop()
        assert time.monotonic() - began < 12, "the grace is 25 s"
    assert DELIVERING not in c.log
