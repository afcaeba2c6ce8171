"""One server per serverdir, also if the lock's file is removed or replaced while it serves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.core.errors import ExitCode
from tests.support.container import Container, wait_for

pytestmark = pytest.mark.slow


def remove(own: Path) -> None:
    """As an operator who cleans up "the sidecar's files"."""
    shutil.rmtree(own, ignore_errors=True)


def replace_the_file(own: Path) -> None:
    """As the restore of a backup."""
    shutil.copy(own / "lock", own / "copy")
    (own / "copy").rename(own / "lock")


def failing(c: Container) -> dict[str, dict[str, str]]:
    """Return the names of the checks that make it not ready."""
    answer = c.get("/readyz")
    return {check["name"]: check for check in answer.json["checks"]} if answer.status == 503 else {}


@pytest.mark.parametrize(("vanish", "reason"), [(remove, "was removed"), (replace_the_file, "was replaced")])
def test_a_lock_file_that_vanishes(
    container: Callable[..., Container], vanish: Callable[[Path], None], reason: str
) -> None:
    """Not ready, with reason and hint, and no second server beside it; ready again after a restart."""
    first = container().start().wait_ready()
    vanish(first.serverdir / ".sidecar")
    check = wait_for(lambda: failing(first).get("lock"), "the check `lock` to fail")
    assert reason in check["reason"]
    assert "start it again" in check["hint"]
    assert "no longer ready: " in first.log

    second = container("second", env={"DEVPI_SERVERDIR": str(first.serverdir)}).start()
    assert second.wait_end() == ExitCode.LOCKED
    assert "is in use by another server" in second.log
    tool = second.run("devpi-fsck", "--serverdir", str(first.serverdir))
    assert tool.returncode == ExitCode.LOCKED, tool.stdout

    assert first.running
    assert first.stop() == ExitCode.STOPPED
    first.start().wait_ready()
    assert first.get("/readyz").status == 200


def test_a_second_server(container: Callable[..., Container]) -> None:
    """It exits, names the first one, and the first one stays ready."""
    first = container().start().wait_ready()
    second = container("second", env={"DEVPI_SERVERDIR": str(first.serverdir)}).start()
    assert second.wait_end() == ExitCode.LOCKED
    assert f"pid {first.pid}," in second.log
    assert first.get("/readyz").status == 200


def test_a_lock_that_is_put_back(container: Callable[..., Container]) -> None:
    """Moving `.sidecar` away and back needs no restart."""
    c = container().start().wait_ready()
    own = c.serverdir / ".sidecar"
    own.rename(c.serverdir / "elsewhere")
    wait_for(lambda: "lock" in failing(c), "the check `lock` to fail")
    (c.serverdir / "elsewhere").rename(own)
    wait_for(lambda: c.get("/readyz").status == 200, "ready again")
