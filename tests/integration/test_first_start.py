"""From nothing to a serving devpi-server, and again; and the files on the disk meanwhile and afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.container import (
    Container,
    call_devpi,
    free_port,
    login_token,
    make_index,
    request,
    upload,
    wait_for,
)

QUIET = ("--no-root-pypi", "--offline-mode")


def has_ipv6() -> bool:
    """Whether this machine can listen on ::1."""
    try:
        free_port("::1")
    except OSError:
        return False
    return True


def test_the_port_answers_before_devpi_does(container: Callable[..., Container]) -> None:
    """/livez and /startupz are 200, /readyz 503 with its reason, and the claim 503, while devpi starts."""
    c = container().start().wait_listening()
    startup, ready, claim, phase = c.get("/startupz"), c.get("/readyz"), c.post("/bootstrap/root-password"), c.status()

    assert 200 == startup.status
    assert 503 == ready.status
    assert ("process", "pending") == (ready.json["checks"][0]["name"], ready.json["checks"][0]["status"])
    assert (503, True) == (claim.status, int(claim.headers["Retry-After"]) > 0)
    assert phase["phase"] in ("starting", "initialising", "launching")
    c.wait_ready()
    assert 200 == c.get("/livez").status


def test_ready_means_that_devpi_answers(container: Callable[..., Container]) -> None:
    """The first +api after the first 200 is answered; a devpi that hangs is not ready, until it answers again."""
    env = {"SIDECAR_MONITOR_INTERVAL": "0.2", "SIDECAR_MONITOR_TIMEOUT": "0.3", "SIDECAR_MONITOR_DEAD_AFTER": "1"}
    c = container(env=env).start().wait_ready()
    assert 200 == request(f"{c.devpi}/+api").status

    os.kill(c.devpi_pid, signal.SIGSTOP)
    try:
        wait_for(lambda: c.get("/readyz").status == 503, "not ready")
        assert 503 == c.get("/readyz/http").status
        assert 200 == c.get("/livez").status
    finally:
        os.kill(c.devpi_pid, signal.SIGCONT)
    c.wait_ready()
    assert c.running


def test_a_fresh_volume_counts_as_empty(container: Callable[..., Container]) -> None:
    """lost+found and .snapshot, which file systems create, don't count as content, and stay."""
    c = container()
    for name in ("lost+found", ".snapshot"):
        (c.serverdir / name).mkdir(parents=True)
    c.start().wait_ready()

    assert [p["phase"] for p in c.status()["phases"]] == ["starting", "initialising", "launching", "ready"]
    assert (c.serverdir / "lost+found").is_dir()
    assert (c.serverdir / ".snapshot").is_dir()


def test_a_restart_keeps_everything(container: Callable[..., Container]) -> None:
    """Users, indexes, files, the server's uuid and root's password survive a stop."""
    c = container().start().wait_ready()
    password = c.claim()
    token = login_token(c.devpi, password)
    assert 201 == call_devpi(f"{c.devpi}/alice", "PUT", {"password": "alice's own"}, token=token).status
    link = upload(make_index(c.devpi, token), token, "kept", b"the content")
    uuid = call_devpi(f"{c.devpi}/+api").headers["X-Devpi-Uuid"]
    assert 0 == c.stop()

    c.start().wait_ready()
    assert "launching" in (phases := [p["phase"] for p in c.status()["phases"]])
    assert "initialising" not in phases
    assert [200, 200, 401] == [c.login("root", password), c.login("alice", "alice's own"), c.login("alice", "")]
    assert b"the content" == request(c.devpi + "/root/dev" + link.partition("/root/dev")[2].partition("#")[0]).body
    assert uuid == call_devpi(f"{c.devpi}/+api").headers["X-Devpi-Uuid"]


@pytest.mark.slow
def test_a_state_of_others_is_taken_over(
    container: Callable[..., Container], made_by_devpi: Callable[..., Path]
) -> None:
    """A state by devpi-init is served unchanged: logged once, marked, nothing generated."""
    c = container()
    shutil.copytree(made_by_devpi("foreign password"), c.serverdir)
    c.start().wait_ready()

    assert "did not create; it is used unchanged" in c.log
    assert "adopted" == json.loads((c.serverdir / ".sidecar/marker.json").read_text())["origin"]
    assert 200 == c.login("root", "foreign password")
    assert "unknown" == c.status()["root_password"]["state"]
    assert 404 == c.post("/bootstrap/root-password").status
    assert 0 == c.stop()
    c.start().wait_ready()
    assert 1 == c.log.count("it is used unchanged")


def test_unix_socket(container: Callable[..., Container], tmp_path: Path) -> None:
    """--unix-socket alone is served and monitored; its path is not public, and is removed at the stop."""
    path = tmp_path / "devpi.sock"
    c = container(flags=("--unix-socket", str(path), *QUIET)).start().wait_ready()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /+api HTTP/1.0\r\nHost: x\r\n\r\n")
        answer = client.makefile("rb").read()

    assert b" 200 " in answer.splitlines()[0]
    assert ["unix"] == c.status()["devpi"]["addresses"]
    assert str(tmp_path).encode() not in c.get("/status").body + c.get("/health").body
    assert 0 == c.stop()
    assert not path.exists()


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
def test_ipv6(container: Callable[..., Container]) -> None:
    """devpi-server and the sidecar on ::1, and `sidecar healthcheck` finds it."""
    c = container(flags=("--host", "::1", "--port", "0", *QUIET), env={"SIDECAR_HOST": "::1"}).start().wait_ready()

    assert c.url.startswith("http://[::1]:")
    assert c.devpi.startswith("http://[::1]:")
    assert 200 == call_devpi(f"{c.devpi}/+api").status
    assert 0 == c.sidecar("healthcheck").returncode


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
def test_both_protocols(container: Callable[..., Container]) -> None:
    """SIDECAR_HOST=:: includes IPv4, from loopback and from elsewhere; `sidecar healthcheck` uses IPv4."""
    c = container(env={"SIDECAR_HOST": "::", "SIDECAR_LOG_ACCESS": "true"}).start().wait_ready()
    port = urlsplit(c.url).port

    assert c.url == f"http://127.0.0.1:{port}"
    assert [200, 200] == [request(f"http://{host}:{port}/readyz").status for host in ("127.0.0.1", "[::1]")]
    assert 0 == c.sidecar("healthcheck").returncode
    assert "127.0.0.1" in c.log
    assert "::ffff:" not in c.log
    assert 0 == c.stop()


def test_several_listeners(container: Callable[..., Container]) -> None:
    """--listen, twice: both are served and reported, without the default host."""
    flags = ("--listen", f"127.0.0.1:{free_port()}", "--listen", f"127.0.0.1:{free_port()}", *QUIET)
    c = container(flags=flags).start().wait_ready()
    addresses = c.status()["devpi"]["addresses"]

    assert {f"http://{flags[1]}", f"http://{flags[3]}"} == set(addresses)
    assert [200, 200] == [call_devpi(f"{address}/+api").status for address in addresses]
    assert 0 == c.stop()
    for address in addresses:
        with pytest.raises(OSError, match="refused"):
            request(f"{address}/+api")


def names(folder: Path) -> set[str]:
    """Return the paths in a folder."""
    return {path.name for path in folder.iterdir()}


def test_what_is_on_the_disk(container: Callable[..., Container]) -> None:
    """Our folder is 0700, its files 0600, the marker there, no staging; after the stop the runtime folder is empty."""
    c = container().start().wait_ready()
    own = c.serverdir / ".sidecar"
    modes = {path.relative_to(own).as_posix(): stat.S_IMODE(path.lstat().st_mode) for path in own.rglob("*")}
    files = {"derivation", "lock", "login-secret.json", "marker.json", "root-hash", "root-password.json", "serving"}

    assert 0o700 == stat.S_IMODE(own.stat().st_mode)
    assert dict.fromkeys(files, 0o600) | {"tmp": 0o700} == modes
    assert 0o700 == stat.S_IMODE(c.runtime.stat().st_mode)
    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in c.runtime.iterdir()}
    assert "initialised" == json.loads((own / "marker.json").read_text())["origin"]
    assert {".nodeinfo", ".serverversion", ".sidecar", ".sqlite"} <= (made := names(c.serverdir))
    assert not made - {".nodeinfo", ".serverversion", ".sidecar", ".sqlite", ".event_serial", "+files"}

    assert 0 == c.stop()
    assert files - {"serving"} == names(own)
    assert {"lock"} == names(c.runtime)
    assert 1 == c.sidecar("healthcheck").returncode
