"""devpi-server's process is replaced within one life: its clients wait for a moment, and none is refused."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from testbed.clients import Clients
from testbed.restartable import DONE, REFUSED
from tests.support.container import (
    PYTHON,
    ROOT,
    Container,
    children,
    cleared_away,
    login_token,
    make_index,
    request,
    token_holds,
    upload,
    wait_for,
)
from tests.support.transfers import downloading

LOCAL = ("--host", "127.0.0.1", "--no-root-pypi", "--offline-mode")
COMMAND = (PYTHON, str(ROOT / "testbed/restartable.py"))


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    with cleared_away(Container(tmp_path / "c", command=COMMAND)) as made:
        yield made


def ask(container: Container) -> None:
    """Request a restart."""
    os.kill(container.pid, signal.SIGUSR1)


def restart(container: Container) -> str:
    """Request a restart, and return the line of the log with its outcome."""
    before = len(ends(container))
    ask(container)
    wait_for(lambda: len(ends(container)) > before, "the end of a restart")
    return ends(container)[before]


def ends(container: Container) -> list[str]:
    """Return the lines of the log with the outcome of each restart."""
    return [line for line in container.log.splitlines() if DONE in line or REFUSED in line]


def test_another_process_serves_the_same(container: Container) -> None:
    """The same address, data, logins and lock; a queued claim succeeds; the counters continue."""
    container.start().wait_ready()
    first, url = container.devpi_pid, container.devpi
    password = container.claim()
    token = login_token(url, password)
    index = make_index(url, token)
    link = upload(index, token, "hello", b"hello")
    wait_for(lambda: uploads(container) == 1, "the upload to be counted")
    served = answered(container)
    for number in range(2):
        assert DONE in restart(container)
        assert (url, first) != (container.devpi, container.devpi_pid)
        assert container.devpi == url
        first = container.devpi_pid
        assert b"hello" == request(link).body
        assert token_holds(url, token)
        upload(index, token, f"again{number}", b"again")
        wait_for(lambda seen=2 + number: uploads(container) == seen, "the upload to be counted")
    assert answered(container) > served
    phases = [each["phase"] for each in container.status()["phases"]]
    assert ["launching", "ready"] * 3 == phases[-6:]
    assert 200 == container.get("/readyz").status
    other = Container(container.home.with_name("other"), env={"DEVPI_SERVERDIR": str(container.serverdir)})
    assert 75 == other.start().wait_end()
    os.kill(container.pid, signal.SIGSTOP)  # the new process holds the lock too, and the old one no longer does
    os.kill(container.pid, signal.SIGCONT)
    assert 0 == container.stop()
    assert not (container.serverdir / ".sidecar/serving").exists()


def uploads(container: Container) -> float:
    """Return the accepted uploads, by /metrics."""
    found = re.search(
        r'^devpi_server_http_requests_total{route="upload",status="200"} (.*)$',
        container.get("/metrics").body.decode(),
        re.MULTILINE,
    )
    return 0.0 if found is None else float(found[1])


def answered(container: Container) -> int:
    """Return the requests that devpi-server has answered in this life."""
    total = container.status()["numbers"]["requests"]["total"]
    assert isinstance(total, int)
    return total


def test_a_running_download_is_finished_and_its_server_waited_for(container: Container) -> None:
    """The old process sends it to its end, while new connections wait for the new one."""
    container.start().wait_ready()
    token = login_token(container.devpi, container.claim())
    index = make_index(container.devpi, token)
    content = os.urandom(8 << 20)
    link = upload(index, token, "large", content)
    old = container.devpi_pid
    with downloading(link) as rest:
        ask(container)
        wait_for(lambda: container.status()["phase"] == "launching", "the drain")
        asked = threading.Thread(target=lambda: answers.append(request(f"{container.devpi}/+api").status))
        answers: list[int] = []
        asked.start()
        assert [] == answers
        assert old in children(container.pid)
        body = rest()
        assert content == body
    asked.join(60)
    assert [200] == answers
    wait_for(lambda: ends(container), "the end of the restart")
    assert DONE in ends(container)[0]
    assert old not in children(container.pid)


@pytest.mark.slow
def test_nothing_piles_up(container: Container, tmp_path: Path) -> None:
    """Neither descriptors nor processes, of successful and refused restarts."""
    config = tmp_path / "devpi.yaml"
    config.write_text("devpi-server:\n  port: 0\n")
    container.flags = ("--configfile", str(config), *LOCAL)
    container.start().wait_ready()
    assert DONE in restart(container)
    before = descriptors(container)
    for content, end in (("port: 1", REFUSED), ("port: 0", DONE)) * 2:
        config.write_text(f"devpi-server:\n  {content}\n")
        assert end in restart(container)
    # the monitor's connections come and go; one left of each would be 4. The metric may be a second old
    wait_for(lambda: descriptors(container) <= before + 3, f"no more than {before}")
    assert 1 == len(children(container.pid))


def descriptors(container: Container) -> float:
    """Return how many the sidecar has open, by its own metric: only root could look."""
    found = re.search(r"^process_open_fds (.*)$", container.get("/metrics").body.decode(), re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_one_at_a_time_and_only_when_ready(container: Container) -> None:
    """All others are refused, with the reason."""
    container.start()
    container.wait_listening()
    assert "devpi-server is not ready (" in restart(container)
    container.wait_ready()
    for _ in range(3):
        ask(container)
        time.sleep(0.05)  # signals of one number don't queue
    wait_for(lambda: any(DONE in line for line in ends(container)), "the restart")
    refused = [line for line in ends(container)[1:] if REFUSED in line]
    assert refused
    assert all("is already being restarted" in line or "is not ready" in line for line in refused)


@pytest.mark.slow
def test_what_means_something_else_now_is_refused(container: Container, tmp_path: Path) -> None:
    """devpi's configuration file has another port, or is unreadable: the old process continues, which is reported."""
    config = tmp_path / "devpi.yaml"
    config.write_text("devpi-server:\n  threads: 40\n")
    container.flags = ("--configfile", str(config), *LOCAL)
    config.write_text("devpi-server:\n  port: 0\n")
    container.start().wait_ready()
    pid = container.devpi_pid
    config.write_text("devpi-server:\n  port: 1\n")
    assert "has changed since the start" in restart(container)
    config.write_text("devpi-server: [")
    assert "configuration file" in restart(container)
    wait_for(lambda: [pid] == children(container.pid), "the exit of the refused processes")
    assert 200 == request(f"{container.devpi}/+api").status
    config.write_text("devpi-server:\n  port: 0\n")
    assert DONE in restart(container)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "draining", "launching"])
def test_a_process_that_dies_meanwhile(container: Container, when: str) -> None:
    """The new one before it takes over: refused. Otherwise the container exits, as without a restart."""
    container.start().wait_ready()
    old = container.devpi_pid
    if when == "before":
        ask(container)
        (new,) = wait_for(lambda: set(children(container.pid)) - {old}, "the new process")
        os.kill(new, signal.SIGKILL)
        wait_for(lambda: ends(container), "the end of the restart")
        assert "exited with code -9" in ends(container)[0]
        assert 200 == request(f"{container.devpi}/+api").status
        assert DONE in restart(container)
        return
    token = login_token(container.devpi, container.claim())
    link = upload(make_index(container.devpi, token), token, "large", os.urandom(8 << 20))
    with downloading(link) as rest:
        ask(container)
        wait_for(lambda: "devpi-server is being restarted" in container.log, "the drain")
        (new,) = set(children(container.pid)) - {old}
        os.kill(old if when == "draining" else new, signal.SIGKILL)
        rest()
    assert 137 == container.wait_end()
    assert REFUSED in ends(container)[0]


@pytest.mark.slow
@pytest.mark.parametrize("when", ["starting", "draining", "launching"])
def test_a_stop_meanwhile(container: Container, when: str) -> None:
    """It is a clean one: code 0, a running download is finished, and no process is left."""
    container.start().wait_ready()
    old = container.devpi_pid
    token = login_token(container.devpi, container.claim())
    content = os.urandom(8 << 20)
    link = upload(make_index(container.devpi, token), token, "large", content)
    with downloading(link) as rest:
        ask(container)
        if when == "starting":
            wait_for(lambda: set(children(container.pid)) - {old}, "the new process", every=0.001)
        else:
            wait_for(lambda: "devpi-server is being restarted" in container.log, "the drain")
        if when == "launching":
            assert content == rest()
            wait_for(lambda: old not in children(container.pid), "the old one's exit", every=0.001)
        processes = children(container.pid)
        os.kill(container.pid, signal.SIGTERM)
        if when != "launching":
            wait_for(lambda: "stopping: " in container.log, "the stop")
            assert content == rest()
    assert 0 == container.wait_end()
    assert not [pid for pid in processes if Path(f"/proc/{pid}").exists()]
    container.start().wait_ready()
    assert content == request(link.replace(urlsplit(link).netloc, urlsplit(container.devpi).netloc)).body


@pytest.mark.slow
def test_a_changed_configuration_takes_effect(container: Container, tmp_path: Path) -> None:
    """What does not change the addresses: devpi-server and all that report it have the new value."""
    config = tmp_path / "devpi.yaml"
    container.flags = ("--configfile", str(config), *LOCAL, "--port", "0")
    config.write_text("devpi-server:\n  outside-url: http://one.example\n")
    container.start().wait_ready()
    config.write_text("devpi-server:\n  outside-url: http://two.example\n")
    assert DONE in restart(container)
    assert b"http://two.example/+login" in request(f"{container.devpi}/+api").body
    page = container.get("/", accept="text/html").body
    assert b"http://two.example" in page
    assert b"http://one.example" not in page


@pytest.mark.slow
def test_what_the_old_process_says_last_does_not_count(container: Container) -> None:
    """While it drains it can't check root's password any more; the new one can, and its report counts."""
    container.start().wait_ready()
    token = login_token(container.devpi, container.claim())
    link = upload(make_index(container.devpi, token), token, "large", os.urandom(8 << 20))
    database = container.serverdir / ".sqlite"
    with downloading(link) as rest:
        ask(container)
        wait_for(lambda: "devpi-server is being restarted" in container.log, "the drain")
        database.rename(database.with_name("elsewhere"))
        wait_for(lambda: "root's password can't be read" in container.log, "the old one's report")
        database.with_name("elsewhere").rename(database)
        rest()
    wait_for(lambda: ends(container), "the end of the restart")
    assert DONE in ends(container)[0]
    assert 200 == container.get("/readyz/root-password").status


@pytest.mark.slow
def test_what_is_still_being_delivered_outlives_a_stop(container: Container) -> None:
    """The old process has exited, and the kernel still sends to a slow reader: a stop waits for that, too."""
    container.start().wait_ready()
    token = login_token(container.devpi, container.claim())
    content = os.urandom(1 << 20)
    link = upload(make_index(container.devpi, token), token, "some", content)
    old = container.devpi_pid
    with downloading(link) as rest:
        ask(container)
        wait_for(lambda: old not in children(container.pid), "the old one's exit", every=0.001)
        os.kill(container.pid, signal.SIGTERM)
        wait_for(lambda: "still being delivered" in container.log, "the stop to wait")
        assert content == rest()
    assert 0 == container.wait_end()


@pytest.mark.slow
def test_a_unix_socket(container: Container) -> None:
    """The same file: a client waits for the next process as on a port."""
    path = container.home / "devpi.sock"
    container.flags = ("--unix-socket", str(path), "--no-root-pypi", "--offline-mode")
    container.start().wait_ready()
    before = path.stat().st_ino
    assert DONE in restart(container)
    assert path.stat().st_ino == before
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(path))
        client.sendall(b"GET /+api HTTP/1.0\r\n\r\n")
        assert b" 200 " in client.recv(4096).splitlines()[0]
    assert 0 == container.stop()
    assert not path.exists()


@pytest.mark.slow
def test_nobody_is_turned_away(container: Container) -> None:
    """8 clients that install and upload, beside restarts: no connection refused, none reset, no upload lost.

    bench's `restarts` has the figure for 50 of them.
    """
    container.start().wait_ready()
    with Clients(urlsplit(container.devpi).netloc, container.claim(), 8) as clients:
        for _ in range(4):
            assert DONE in restart(container)
            seen = clients.answered()
            wait_for(lambda seen=seen: clients.answered() > seen + 8, "answers")
    assert [] == clients.failures
    assert {"file 200", "page 200", "upload 200"} == set(clients.done)
    assert [] == clients.lost()
