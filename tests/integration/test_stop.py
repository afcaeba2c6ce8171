"""Shutdown: signals, drain, exit codes; as a plain process, as PID 1, and under an init."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sidecar.core import files
from sidecar.storage.inspection import Content, Storage
from sidecar.storage.serverdir import Serverdir
from tests.support import needs
from tests.support.container import (
    ENTRYPOINT,
    TOKEN,
    Container,
    alive,
    call_devpi,
    children,
    login_token,
    make_index,
    request,
    upload,
    wait_for,
)
from tests.support.transfers import downloading, refuses, uploading

BIG = 24 * 2**20
"""Bytes of a file that exceeds all socket buffers."""


def with_big_file(c: Container) -> tuple[str, str]:
    """Make an index, and return the link to a big file in it."""
    password = c.env["DEVPI_PASSWORD"] = "the root password of these tests"
    c.start().wait_ready()
    token = login_token(c.devpi, password)
    link = upload(make_index(c.devpi, token), token, "big", os.urandom(BIG))
    return token, link.partition("#")[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_clean_stop(container: Callable[..., Container], number: int) -> None:
    """SIGTERM and SIGINT end it with code 0, and devpi-server too, soon if nothing runs."""
    c = container().start().wait_ready()
    devpi, began = c.devpi_pid, time.monotonic()

    assert 0 == c.stop(number)
    assert time.monotonic() - began < 10
    assert not alive(devpi)
    assert "stopped" in c.log.splitlines()[-1]


@pytest.mark.slow
def test_a_stop_at_any_instant_of_a_first_start(container: Callable[..., Container]) -> None:
    """Stopped while it starts, initialises or launches: code 0, and the next start has a valid state."""
    for number, delay in enumerate((0.0, 0.3, 0.5)):
        c = container(f"c{number}").start().wait_listening()
        deadline = time.monotonic() + delay
        wait_for(lambda: time.monotonic() >= deadline or c.get("/readyz").status == 200, "its instant")  # noqa: B023
        assert 0 == c.stop(), c.log
        assert not (c.serverdir / ".sidecar/staging").exists()

        assert 0 == c.start().wait_ready().stop(), c.log


def test_a_stop_while_installing(
    tmp_path: Path, made_by_devpi: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop never clears up a state that is being installed, which would leave a marker without a state."""
    serverdir = Serverdir(tmp_path / "s", Storage("sqlite"))
    serverdir.open()
    serverdir.stage()
    shutil.copytree(made_by_devpi("installed"), serverdir.staged_state)
    stop = threading.Thread(target=serverdir.clear_up)
    write_file = files.write_file

    def slow_write_file(path: Path, data: bytes) -> None:
        if path.name == "promotion.json":
            stop.start()
            stop.join(0.5)  # it may have to wait until this installation is finished
        write_file(path, data)

    monkeypatch.setattr("sidecar.core.files.write_file", slow_write_file)
    serverdir.install("initialised")
    stop.join()

    assert Content.OURS is serverdir.examine()
    assert not serverdir.staging.exists()


def test_not_ready_at_once_then_served_for_the_delay(container: Callable[..., Container]) -> None:
    """SIDECAR_STOP_DELAY: not ready from the signal on, while devpi-server accepts new connections until its end."""
    c = container(env={"SIDECAR_STOP_DELAY": "2.5"}).start().wait_ready()
    devpi, began = c.devpi, time.monotonic()
    os.kill(c.pid, signal.SIGTERM)
    wait_for(lambda: c.get("/readyz").status == 503, "not ready", 2.0)

    assert "stopping" == c.status()["phase"]
    assert 200 == c.get("/livez").status
    assert 200 == request(f"{devpi}/+api").status
    assert time.monotonic() - began < 2.5, "this test was too slow to look"
    assert 503 == c.post("/bootstrap/rotate").status
    assert 0 == c.wait_end()
    assert time.monotonic() - began >= 2.5


def test_transfers_finish(container: Callable[..., Container]) -> None:
    """A running download and upload are finished by a stop, while new connections are refused; code 0."""
    c = container()
    token, link = with_big_file(c)
    devpi = c.devpi
    content = os.urandom(4 * 2**20)
    with downloading(link) as rest, uploading(f"{devpi}/root/dev", token, "late", content, 1_000_000) as finish:
        os.kill(c.pid, signal.SIGTERM)
        wait_for(lambda: refuses(devpi), "the listener to close")
        assert c.running
        assert 503 == c.get("/readyz").status

        assert 200 == finish()
        assert c.running, "the download still runs"
        assert BIG == len(rest())
    assert 0 == c.wait_end()

    c.start().wait_ready()
    (uploaded,) = call_devpi(f"{c.devpi}/root/dev/late", token=token).json["result"]["1.0"]["+links"]
    path = urlsplit(uploaded["href"]).path
    assert content == request(c.devpi + path).body


def test_a_rotation_that_waits_holds_no_drain_up(container: Callable[..., Container]) -> None:
    """devpi makes a change of root's password wait for the database's lock; the listener closes meanwhile."""
    c = container(env={"DEVPI_PASSWORD": "the root password of these tests"}).start().wait_ready()
    devpi = c.devpi
    with closing(sqlite3.connect(c.serverdir / ".sqlite", isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        rotation = threading.Thread(target=c.post, args=("/bootstrap/rotate",))
        rotation.start()
        record = c.serverdir / ".sidecar/root-password.json"
        wait_for(lambda: "rotating" in record.read_text(), "the rotation's intent")
        began = time.monotonic()
        os.kill(c.pid, signal.SIGTERM)
        wait_for(lambda: refuses(devpi), "the listener to close", 6.0)
        assert 0 == c.wait_end()
        assert time.monotonic() - began < 12, "the grace is 25 s, devpi's own patience 30 s"
    rotation.join()
    c.start().wait_ready()
    assert 200 == c.login("root", c.claim()), "the next start finishes it"


def test_the_grace_ends(container: Callable[..., Container]) -> None:
    """A client that does not read is cut when SIDECAR_STOP_GRACE is over; the code is still 0."""
    c = container(env={"SIDECAR_STOP_GRACE": "1"})
    _, link = with_big_file(c)
    with downloading(link) as rest:
        began = time.monotonic()
        os.kill(c.pid, signal.SIGTERM)
        assert 0 == c.wait_end()
        assert 1 <= time.monotonic() - began < 10
        assert len(rest()) < BIG


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_second_signal(container: Callable[..., Container], second: int) -> None:
    """It cuts short the delay, and the drain of an endless download; code 0."""
    c = container(env={"SIDECAR_STOP_DELAY": "0" if second == signal.SIGINT else "300", "SIDECAR_STOP_GRACE": "300"})
    _, link = with_big_file(c)
    with downloading(link) as rest:
        devpi, began = c.devpi, time.monotonic()
        os.kill(c.pid, signal.SIGTERM)
        wait_for(lambda: c.get("/readyz").status == 503, "the first signal's effect")
        if second == signal.SIGINT:
            wait_for(lambda: refuses(devpi), "the drain")
        assert c.running
        os.kill(c.pid, second)
        assert 0 == c.wait_end()
        assert time.monotonic() - began < 20
        assert len(rest()) < BIG


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGKILL, 137, "devpi-server was killed by SIGKILL, most likely for lack of memory"),
        (signal.SIGTERM, 143, "devpi-server was killed by SIGTERM"),
        (signal.SIGINT, 1, "devpi-server exited unexpectedly with code 0"),
    ],
    ids=["SIGKILL", "SIGTERM", "code 0"],
)
def test_devpi_ends_by_itself(container: Callable[..., Container], number: int, code: int, said: str) -> None:
    """Its code, or 128 plus its signal, becomes the container's; 0 becomes 1; and the log says that it was devpi."""
    c = container().start().wait_ready()
    os.kill(c.devpi_pid, number)

    assert code == c.wait_end()
    assert said in c.log
    assert not (c.runtime / "state.json").exists()


def test_a_devpi_that_hangs(container: Callable[..., Container]) -> None:
    """A devpi-server that ignores everything is killed when the time after the grace is over; code 0."""
    c = container(env={"SIDECAR_STOP_GRACE": "0"}).start().wait_ready()
    devpi = c.devpi_pid
    os.kill(devpi, signal.SIGSTOP)
    try:
        assert 0 == c.stop()
    finally:
        if alive(devpi):
            os.kill(devpi, signal.SIGKILL)
    assert not alive(devpi)


# --- as PID 1, and under an init --------------------------------------------------------------------------------------

UNSHARE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def require_pid_namespace() -> None:
    """Skip the test with the reason if this process can't make one."""
    done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        needs.not_tested(f"unshare --pid is not permitted here: {done.stderr.strip()}")


def test_as_pid_1(container: Callable[..., Container]) -> None:
    """PID 1 handles SIGTERM and exits with 0; before, it has reaped an inherited orphan."""
    require_pid_namespace()
    c = container(command=(*UNSHARE, *ENTRYPOINT)).start().wait_ready()
    (sidecar,) = children(c.pid)
    assert "NSpid:\t%d\t1\n" % sidecar in Path(f"/proc/{sidecar}/status").read_text()  # noqa: UP031
    (devpi,) = children(sidecar)

    subprocess.run(["nsenter", "-t", str(sidecar), "-p", "-m", "sh", "-c", "sleep 0.5 & sleep 0.5 &"], check=True)
    orphans = wait_for(lambda: [pid for pid in children(sidecar) if pid != devpi], "orphans", 5)
    wait_for(lambda: children(sidecar) == [devpi], "their reaping", 10)
    assert not any(Path(f"/proc/{pid}").exists() for pid in orphans)
    assert 200 == c.get("/readyz").status

    os.kill(sidecar, signal.SIGTERM)
    assert 0 == c.wait_end()
    assert "stopped" in c.log.splitlines()[-1]


def test_under_an_init(container: Callable[..., Container]) -> None:
    """Under tini as PID 1, as in the image, SIGTERM to tini ends all with 0."""
    require_pid_namespace()
    tini = needs.program("tini")
    c = container(command=(*UNSHARE, tini, "--", *ENTRYPOINT)).start().wait_ready()
    (init,) = children(c.pid)
    (sidecar,) = children(init)
    (devpi,) = children(sidecar)
    password = c.post("/bootstrap/root-password", token=TOKEN).json["password"]
    assert 200 == c.login("root", password)

    os.kill(init, signal.SIGTERM)
    assert 0 == c.wait_end()
    assert "stopped" in c.log.splitlines()[-1]
    assert not alive(devpi)
