"""Faults of the environment: probes and their delay, exit codes, the log; no data is lost.

The expectations are in `faults`. The monitor probes at its default intervals here.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from testbed.plugins import installed_plugin
from tests.support import exported, faults, needs, volumes
from tests.support.cgroup import Cgroup
from tests.support.container import (
    PYTHON,
    ROOT,
    Container,
    alive,
    call_devpi,
    login_token,
    make_index,
    request,
    upload,
    upload_form,
    wait_for,
)
from tests.support.transfers import refuses

pytestmark = pytest.mark.slow

Make = Callable[..., Container]
DEFAULTS = {"SIDECAR_MONITOR_INTERVAL": "-"}
CONTENT = os.urandom(500)
"""So little that devpi-server spools it in memory: a spooled file would be deleted later, and free space then."""
ROTATE = "/bootstrap/rotate"


def serving(c: Container) -> tuple[str, str, str]:
    """A ready container with an upload: root's password, a login token, the upload's path."""
    c.start().wait_ready()
    password = c.claim()
    token = login_token(c.devpi, password)
    link = upload(make_index(c.devpi, token), token, "kept", CONTENT)
    return password, token, link.removeprefix(c.devpi)


def upload_status(c: Container, token: str) -> int:
    """Return the status of an upload that the volume may refuse."""
    body, kind = upload_form("late", os.urandom(200_000))
    return call_devpi(f"{c.devpi}/root/dev/", "POST", body, token=token, kind=kind).status


def still_there(c: Container, path: str) -> bool:
    """Whether the acknowledged upload is served unchanged."""
    answer = request(c.devpi + path)
    return (answer.status, answer.body) == (200, CONTENT)


# --- the disk is full -------------------------------------------------------------------------------------------------


def test_full_at_a_first_start(container: Make) -> None:
    """At whatever step the space ends: it reports that at once, leaves nothing partial, and starts with more space."""
    refused = 0
    for size in ("4k", "20k", "28k", "36k", "44k", "48k", "52k", "56k"):
        c = container(size, env=DEFAULTS)
        with volumes.tmpfs(c.serverdir, size) as volume:
            if size == "4k":
                volume.fill()
            began = time.monotonic()
            c.start()
            if size in ("52k", "56k"):  # the state fits, or it does not, or nothing else fits beside it

                def told(c: Container = c) -> bool:
                    full = faults.FULL_SERVING.reason in c.get("/readyz/write").body.decode()
                    return not c.running or full or c.get("/readyz").status == 200

                wait_for(lambda: not c.running or told(), "an exit, a reason, or readiness", 10)  # noqa: B023
            if size not in ("52k", "56k") or not c.running:
                fault = faults.FULL_START if size == "4k" else faults.FULL_FIRST_START
                fault.seen(c, began)
                names = exported.names(c.serverdir) | exported.names(c.serverdir / ".sidecar")
                assert not names & {".nodeinfo", ".sqlite", "staging", "promotion.json", "marker.json"}
                refused += 1
                if size == "4k":
                    volume.free()
            else:
                assert 0 == c.stop()
            volume.remount("size=8m")
            c.start().wait_ready()
            assert 200 == c.login("root", c.claim())
            c.kill()
    assert refused >= 6


def test_full_while_importing(container: Make) -> None:
    """Failed with the reason, nothing left of it; with space, a restart imports all of it."""
    c = container(env=DEFAULTS)
    exported.write(c.init_dir / "export", projects=100)
    with volumes.tmpfs(c.serverdir, "300k") as volume:
        began = time.monotonic()
        faults.FULL_IMPORT.seen(c.start().wait_listening(), began)
        assert exported.names(c.serverdir) == {".sidecar"}
        assert 0 == c.stop()
        volume.remount("size=64m")
        c.start().wait_ready()
        assert "completed" == c.status()["import"]["state"]
        assert 100 == c.status()["import"]["projects"]["done"]
        c.kill()


def test_full_while_serving(container: Make) -> None:
    """Not ready, alive; an upload, a claim or a rotation loses nothing; ready again as soon as there is space."""
    c = container(env=DEFAULTS)
    with volumes.tmpfs(c.serverdir, "16m") as volume:
        c.start().wait_ready()
        began = time.monotonic()
        volume.fill()
        claim = c.post("/bootstrap/root-password")
        assert (503, True) == (claim.status, "can't be recorded" in claim.json["detail"])
        assert "claimable" == c.status()["root_password"]["state"]
        faults.FULL_SERVING.seen(c, began)
        volume.free()
        wait_for(lambda: c.get("/readyz").status == 200, "readiness with space", 5)
        password = c.claim()
        token = login_token(c.devpi, password)
        path = upload(make_index(c.devpi, token), token, "kept", CONTENT).removeprefix(c.devpi)
        volume.fill()
        assert upload_status(c, token) >= 500
        assert 409 == c.post(ROTATE).status
        assert still_there(c, path)
        assert 200 == c.login("root", password)
        volume.free()
        assert 200 == upload_status(c, token)
        assert 0 == c.stop()
        c.start().wait_ready()
        assert still_there(c, path)
        assert 200 == c.login("root", c.post(ROTATE).json["password"])
        c.kill()


def test_full_at_a_later_start(container: Make) -> None:
    """A complete state on a full volume: refused, unchanged."""
    c = container(env=DEFAULTS)
    with volumes.tmpfs(c.serverdir, "16m") as volume:
        password, _, path = serving(c)
        assert 0 == c.stop()
        volume.fill()
        began = time.monotonic()
        faults.FULL_START.seen(c.start(), began)
        volume.free()
        c.start().wait_ready()
        assert (True, 200) == (still_there(c, path), c.login("root", password))
        c.kill()


def test_full_runtime_directory(container: Make) -> None:
    """At the start it exits; later a rotation is refused, the password is unchanged, and known."""
    c = container(env=DEFAULTS)
    with volumes.tmpfs(c.runtime, "32k") as volume:
        volume.fill()
        began = time.monotonic()
        faults.FULL_RUNTIME.seen(c.start(), began)
        volume.free()
        c.start().wait_ready()
        password = c.claim()
        volume.fill()
        assert 409 == c.post(ROTATE).status
        assert (200, 200) == (c.login("root", password), c.get("/readyz").status)
        assert "claimed" == c.status()["root_password"]["state"]
        volume.free()
        rotated = c.post(ROTATE)
        assert 200 == rotated.status, rotated
        assert 200 == c.login("root", rotated.json["password"])
        c.kill()


# --- the disk fails, or goes away -------------------------------------------------------------------------------------


def test_read_only(container: Make) -> None:
    """As ext4 after an error: downloads continue; a start on it is refused; once fixed, all data is there."""
    c = container(env=DEFAULTS)
    with volumes.ext4(c.serverdir) as volume:
        password, token, path = serving(c)
        began = time.monotonic()
        volume.remount("abort")
        faults.READ_ONLY_SERVING.seen(c, began)
        assert still_there(c, path)
        assert upload_status(c, token) >= 500
        assert 0 == c.stop()
        began = time.monotonic()
        faults.READ_ONLY_START.seen(c.start(), began)
        volume.renew()
        c.start().wait_ready()
        assert (True, 200) == (still_there(c, path), c.login("root", password))
        c.kill()


def test_io_errors(container: Make) -> None:
    """EIO for every file, the database too; acknowledged data is there once the disk works."""
    c = container(env=DEFAULTS)
    with volumes.ext4(c.serverdir) as volume:
        password, _, path = serving(c)
        began = time.monotonic()
        volume.break_down()
        faults.IO_ERROR_SERVING.seen(c, began)
        assert 0 == c.stop()
        began = time.monotonic()
        faults.IO_ERROR_START.seen(c.start(), began)
        volume.renew()
        c.start().wait_ready()
        assert (True, 200) == (still_there(c, path), c.login("root", password))
        c.kill()


@pytest.mark.parametrize("how", ["unmounted", "another one over it"])
def test_the_volume_goes_away(container: Make, how: str) -> None:
    """Nothing below the mount point is taken for the state; with the volume back, all data is there."""
    c = container(env=DEFAULTS)
    with volumes.ext4(c.serverdir) as volume:
        password, _, path = serving(c)
        began = time.monotonic()
        other = volumes.Volume(c.serverdir, "none", "tmpfs", "size=1m")
        volume.unmount() if how == "unmounted" else other.mount()
        faults.UNMOUNTED.seen(c, began)
        assert 0 == c.stop()
        volume.mount() if how == "unmounted" else other.unmount()
        c.start().wait_ready()
        assert (True, 200) == (still_there(c, path), c.login("root", password))
        c.kill()


@pytest.mark.parametrize("how", ["deleted", "overwritten", "cut short", "emptied"])
def test_the_database_goes_away(container: Make, how: str) -> None:
    """Not ready within 10 s; no client can become root, neither now nor after a restart, which is refused."""
    c = container(env=DEFAULTS)
    serving(c)
    database = c.serverdir / ".sqlite"
    began = time.monotonic()
    if how == "deleted":
        database.unlink()
    else:
        os.truncate(database, {"overwritten": 0, "cut short": 8192, "emptied": 0}[how])
        if how == "overwritten":
            database.write_bytes(os.urandom(50_000))
    (faults.DATABASE_DELETED if how == "deleted" else faults.DATABASE_CORRUPTED).seen(c, began)
    assert call_devpi(f"{c.devpi}/root", "PUT", {"password": "mine"}).status >= 400
    assert 401 != call_devpi(f"{c.devpi}/+login", "POST", {"user": "root", "password": "mine"}).status != 200
    assert 0 == c.stop()
    began = time.monotonic()
    faults.DATABASE_BAD_START.seen(c.start(), began)


def test_the_sidecars_folder_is_deleted(container: Make) -> None:
    """A cleanup removes the lock's file: a process that waits for the lock does not get it."""
    c = container(env=DEFAULTS).start().wait_ready()
    began = time.monotonic()
    shutil.rmtree(c.serverdir / ".sidecar")
    faults.LOCK_REMOVED.seen(c, began)
    second = container(name="second", env=DEFAULTS | {"DEVPI_SERVERDIR": str(c.serverdir)})
    assert 75 == second.start().wait_end()
    assert 200 == c.get("/readyz/http").status
    assert 0 == c.stop()
    c.start().wait_ready()


# --- devpi-server -----------------------------------------------------------------------------------------------------


def test_devpi_hangs(container: Make) -> None:
    """Slow for SIDECAR_MONITOR_DEAD_AFTER, then dead; alive for `/livez`; ready again when it continues."""
    dead_after = 6
    c = container(env=DEFAULTS | {"SIDECAR_MONITOR_DEAD_AFTER": str(dead_after)}).start().wait_ready()
    devpi = c.devpi_pid
    began = time.monotonic()
    os.kill(devpi, signal.SIGSTOP)
    try:
        claim = c.post("/bootstrap/root-password")
        assert 503 == claim.status
        faults.HANGS.seen(c, began, dead_after)
    finally:
        os.kill(devpi, signal.SIGCONT)
    wait_for(lambda: c.get("/readyz").status == 200, "readiness", 5)
    assert 200 == c.login("root", c.claim())


def test_devpi_ends_at_once(container: Make, tmp_path: Path) -> None:
    """A plugin prevents devpi-server's start: its code, and that it was devpi; without it, it starts."""
    plugin = installed_plugin(
        tmp_path / "plugins",
        "broken",
        "from devpi_server.config import hookimpl\n"
        "from devpi_server.main import Fatal\n"
        "@hookimpl\n"
        "def devpiserver_cmdline_run(xom):\n"
        "    raise Fatal('the plugin is broken')\n",
    )
    c = container(env=DEFAULTS | plugin)
    began = time.monotonic()
    faults.ENDS_AT_ONCE.seen(c.start(), began)
    assert "the plugin is broken" in c.log
    c.env = DEFAULTS
    c.start().wait_ready()
    assert 200 == c.login("root", c.claim())


@pytest.mark.parametrize("fault", [faults.ENDS_LATER, faults.ENDS_LATER_WITH_0], ids=["with-7", "with-0"])
def test_devpi_ends_while_it_serves(container: Make, tmp_path: Path, fault: faults.Fault) -> None:
    """After a while, a plugin of it exits the process; the next start serves the old data."""
    trigger = tmp_path / "trigger"
    plugin = installed_plugin(
        tmp_path / "plugins",
        "tired",
        "import os, threading, time\n"
        "from pathlib import Path\n"
        "from devpi_server.config import hookimpl\n"
        "def wait():\n"
        f"    trigger = Path({str(trigger)!r})\n"
        "    while not trigger.exists():\n"
        "        time.sleep(0.05)\n"
        "    os._exit(int(trigger.read_text()))\n"
        "@hookimpl\n"
        "def devpiserver_cmdline_run(xom):\n"
        "    threading.Thread(target=wait, daemon=True).start()\n",
    )
    c = container(env=DEFAULTS | plugin)
    password, _, path = serving(c)
    (code := tmp_path / "code").write_text("0" if fault is faults.ENDS_LATER_WITH_0 else "7")
    began = time.monotonic()
    code.rename(trigger)
    fault.seen(c, began)
    c.env = DEFAULTS
    c.start().wait_ready()
    assert (True, 200) == (still_there(c, path), c.login("root", password))


def test_devpi_is_killed_for_memory(container: Make) -> None:
    """By the kernel, in a cgroup without memory for a password check."""
    c = container(env=DEFAULTS).start().wait_ready()
    password = c.claim()
    try:
        cgroup = Cgroup(f"devpi-sidecar-fault-{os.getpid()}", 32 * 2**20)
    except OSError as error:
        pytest.skip(f"NOT TESTED: no memory cgroup can be made here: {error}")
    try:
        (cgroup.path / "cgroup.procs").write_text(str(c.devpi_pid))
        began = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT011 - whatever a connection says that is cut
            c.login("root", password)
        faults.OUT_OF_MEMORY.seen(c, began)
        assert cgroup.oom_kills == 1
    finally:
        c.kill()
        cgroup.remove()
    assert 200 == c.start().wait_ready().login("root", password)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port in use."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_the_port_is_taken(container: Make, taken: int) -> None:
    """The log has address and flag; no state was made before, and one is made with another port."""
    c = container(env=DEFAULTS, flags=("--host", "127.0.0.1", "--port", str(taken), "--no-root-pypi", "--offline-mode"))
    began = time.monotonic()
    faults.PORT_TAKEN.seen(c.start(), began)
    assert f"http://127.0.0.1:{taken}" in c.log
    assert "--port" in c.log
    c.flags = ()
    c.start().wait_ready()
    assert 200 == c.login("root", c.claim())


# --- the sidecar ------------------------------------------------------------------------------------------------------

FAULTY = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv.pop(1))
from sidecar.features.health.monitor import Health
import entrypoint

trigger, fault = Path(sys.argv.pop(1)), sys.argv.pop(1)
pause = Health._pause


def faulty(self):
    if not trigger.exists():
        return pause(self)
    if fault == "ends":
        raise RuntimeError("as told")
    return 3600.0


Health._pause = faulty
sys.exit(entrypoint.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("fault", ["hangs", "ends"])
def test_the_monitor(container: Make, tmp_path: Path, fault: str) -> None:
    """Readiness doesn't outlive it; if it hangs, `/livez` fails too; if it ends, the container ends."""
    script, trigger = tmp_path / "faulty.py", tmp_path / "trigger"
    script.write_text(FAULTY)
    c = container(env=DEFAULTS, command=(PYTHON, str(script), str(ROOT), str(trigger), fault))
    c.start().wait_ready()
    devpi = c.devpi_pid
    began = time.monotonic()
    trigger.touch()
    if fault == "ends":
        faults.MONITOR_ENDS.seen(c, began)
        assert "RuntimeError: as told" in c.log
        assert not alive(devpi)
    else:
        faults.MONITOR_HANGS.seen(c, began)
        assert 0 == c.stop()


def test_the_sidecar_alone_is_killed(container: Make) -> None:
    """No devpi-server survives, and the next start takes over at once."""
    c = container(env=DEFAULTS).start().wait_ready()
    devpi, address = c.devpi_pid, c.devpi
    began = time.monotonic()
    os.kill(c.pid, signal.SIGKILL)
    faults.SIDECAR_KILLED.seen(c, began)
    wait_for(lambda: not alive(devpi) and refuses(address), "devpi-server's exit", 5)
    assert 0 == c.start().wait_ready().stop()


# --- the clock --------------------------------------------------------------------------------------------------------

CLOCK = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long offset(void) {
    static volatile long *shared;
    if (!shared) {
        int fd = open(getenv("CLOCK_OFFSET"), O_RDONLY | O_CLOEXEC);
        shared = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, fd, 0);
        close(fd);
    }
    return *shared;
}
int clock_gettime(clockid_t id, struct timespec *at) {
    int result = syscall(SYS_clock_gettime, id, at);
    if (result == 0 && id == CLOCK_REALTIME) at->tv_sec += offset();
    return result;
}
int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    int result = syscall(SYS_gettimeofday, at, zone);
    if (result == 0) at->tv_sec += offset();
    return result;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """A library that shifts a process's wall clock by the seconds in the file beside it, not monotonic clocks."""
    compiler = needs.compiler()
    (tmp_path / "clock.c").write_text(CLOCK)
    library = tmp_path / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "clock.c"], check=True)
    (tmp_path / "offset").write_bytes(bytes(8))
    return library


def test_the_clock_jumps(container: Make, clock: Path) -> None:
    """A day ahead, then a day back: ready all the time, and the unclaimed password neither expires early nor stays."""
    offset = clock.with_name("offset")
    env = {"LD_PRELOAD": str(clock), "CLOCK_OFFSET": str(offset), "SIDECAR_CLAIM_TTL": "1h"}
    c = container(env=DEFAULTS | env).start().wait_ready()

    def day(url: str) -> datetime:
        return parsedate_to_datetime(request(url).headers["Date"])

    def look() -> object:
        (http,) = [check for check in c.get("/health").json["checks"] if check["name"] == "http"]
        return http["value"]

    for days in (1, -1):
        began = time.monotonic()
        with offset.open("r+b") as file:
            file.write((days * 86400).to_bytes(8, sys.byteorder, signed=True))
        there = datetime.now(UTC) + timedelta(days=days)
        for url in (c.url + "/livez", c.devpi + "/+api"):
            wait_for(lambda url=url, there=there: abs(day(url) - there) < timedelta(hours=1), "the jump")
        before = look()
        wait_for(lambda before=before: look() != before, "another probe of the monitor")
        faults.CLOCK.seen(c, began)
        assert "claimable" == c.status()["root_password"]["state"]
        assert "check " not in c.log
    assert 200 == c.login("root", c.claim())
