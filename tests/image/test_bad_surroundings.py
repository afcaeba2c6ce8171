"""Memory, disk, network and clock with faults: it serves, or reports what is wrong."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.support import engine
from tests.support.container import wait_for
from tests.support.engine import LOCKED_DOWN, NO_MIRROR, Box, docker

pytestmark = pytest.mark.image

Make = Callable[..., Box]


def test_too_little_memory_is_said(box: Make) -> None:
    """With 64 MiB the kernel may kill devpi-server or all processes, or slow them down: the log warns at the start."""
    small = box("--memory", "64m", "--memory-swap", "64m", "--tmpfs", "/tmp").start()
    assert wait_for(lambda: "the memory limit of 64 MiB is too low" in small.log, "the warning", 30, every=0.5)


def test_no_network_at_all(box: Make) -> None:
    """`--network none` has a loopback interface: devpi serves what it has."""
    alone = box("--network", "none", flags=("--no-root-pypi",)).start().wait_ready_inside()
    code = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:3141/+api').status)"
    assert "200\n" == alone.exec("python3", "-c", code).stdout
    assert 0 == alone.stop()


def test_a_dead_name_server(box: Make) -> None:
    """A mirror's upstream can't be resolved: devpi and its sidecar are ready soon anyway."""
    begin = time.monotonic()
    deaf = box("--dns", "192.0.2.1", flags=()).start().wait_ready(60)
    assert 60 > time.monotonic() - begin
    assert 200 == deaf.login(deaf.claim())
    assert 0 == deaf.stop()


def test_ipv6_alone(box: Make) -> None:
    """Both listen on `::`, and HEALTHCHECK finds the sidecar there."""
    options = ("--network", "none", "--sysctl", "net.ipv6.conf.lo.disable_ipv6=0", "--env", "SIDECAR_HOST=::1")
    six = box(*options, flags=("--host", "::1", *NO_MIRROR))
    try:
        six.start()
    except AssertionError as error:
        if "ipv6" in str(error):
            engine.not_here("this engine's kernel has no IPv6")
        raise
    six.wait_ready_inside()
    code = "import urllib.request as u; print(u.urlopen('http://[::1]:3141/+api').status, u.urlopen('http://[::1]:3142/readyz').status)"
    assert "200 200\n" == six.exec("python3", "-c", code).stdout
    six.wait_health("healthy", 30)


def test_no_tmp(box: Make, volume: str) -> None:
    """Read-only and without a tmpfs: refused with reason and hint, before the volume is touched."""
    bare = box("--read-only", "--volume", f"{volume}:/var/lib/devpi").start()
    assert 73 == bare.wait_end()
    last = bare.log.splitlines()[-1]
    assert "the runtime directory can't be used" in last
    assert "(docker run: `--tmpfs /tmp`, compose: `tmpfs: [/tmp]`, Kubernetes: an emptyDir at /tmp)" in last
    assert "SIDECAR_RUNTIME_DIR" in last


@pytest.mark.parametrize(
    "hint", ["--tmpfs /tmp", "--env SIDECAR_RUNTIME_DIR=/run/mine --tmpfs /run:mode=1777"], ids=["tmpfs", "elsewhere"]
)
def test_the_hints_for_no_tmp_work(box: Make, volume: str, hint: str) -> None:
    """With a tmpfs, or with the runtime directory elsewhere, where `/tmp` isn't needed."""
    options = ("--read-only", "--volume", f"{volume}:/var/lib/devpi")
    lean = box(*options, *hint.split()).start()
    lean.wait_ready()
    assert 0 == lean.stop()


def test_a_full_volume(box: Make) -> None:
    """No space from the start: exit code 73, or alive and not ready with the reason; never a crash without one."""
    options = ("--opt", "type=tmpfs", "--opt", "device=tmpfs")
    with engine.volume(*options, "--opt", "o=size=4k,uid=1000,gid=0,mode=770") as name:
        full = box("--tmpfs", "/tmp", "--volume", f"{name}:/var/lib/devpi")
        try:
            full.start()
            wait_for(
                lambda: not full.state["Running"] or full.get("/status").json["phase"] == "failed",
                "an end",
                60,
                every=0.5,
            )
            assert "space" in full.log, full.log
            if not full.state["Running"]:
                assert 73 == full.state["ExitCode"]
        finally:
            full.remove()


def test_a_volume_that_fills_up(box: Make) -> None:
    """While it serves: not ready, with the reason in the check; once there is space, it is ready again by itself."""
    options = ("--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=32m,uid=1000,gid=0,mode=770")
    with engine.volume(*options) as name:
        filling = box("--tmpfs", "/tmp", "--volume", f"{name}:/var/lib/devpi")
        try:
            filling.start().wait_ready()
            fill = (
                "f = open('/var/lib/devpi/.snapshot', 'wb', 0)\n"
                "try:\n    while f.write(bytes(65536)): pass\n"
                "except OSError as error: print(error.errno)"
            )
            assert "28\n" == filling.exec("python3", "-c", fill).stdout
            wait_for(lambda: filling.get("/readyz").status == 503, "not ready", 30)
            assert b"write" in filling.get("/readyz").body
            filling.exec("python3", "-c", "import os; os.unlink('/var/lib/devpi/.snapshot')")
            filling.wait_ready(30)
        finally:
            filling.remove()


def test_a_volume_in_memory(box: Make) -> None:
    """A tmpfs has no meaningful fsync: it serves, and the log warns."""
    options = ("--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=uid=1000,gid=0,mode=770")
    with engine.volume(*options) as name:
        light = box("--read-only", "--tmpfs", "/tmp", "--volume", f"{name}:/var/lib/devpi")
        try:
            light.start().wait_ready()
            assert 200 == light.login(light.claim())
            warned = [line for line in light.log.splitlines() if "tmpfs" in line and "WARN" in line]
            assert 1 == len(warned), light.log
        finally:
            light.remove()


def test_a_clock_of_1970() -> None:
    """The kernel has one wall clock for all containers."""
    engine.not_here("a container has no wall clock of its own (time namespaces cover monotonic clocks alone)")


def test_the_limits_are_those_of_the_engine(box: Make) -> None:
    """The locked-down options reach the kernel: no capabilities, no new privileges, nothing writable."""
    locked = box(*LOCKED_DOWN).start()
    code = (
        "print([l.split()[1] for l in open('/proc/self/status') if l.startswith(('CapEff', 'CapBnd', 'NoNewPrivs'))])"
    )
    assert "['0000000000000000', '0000000000000000', '1']\n" == locked.exec("python3", "-c", code).stdout
    written = locked.exec("python3", "-c", "open('/opt/devpi/x', 'w')", check=False)
    assert "Read-only file system" in written.stderr
    assert (
        "12345 0\n" == docker("exec", locked.name, "python3", "-c", "import os; print(os.getuid(), os.getgid())").stdout
    )
