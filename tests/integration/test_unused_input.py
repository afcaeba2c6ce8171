"""Archives and passwords without effect on a serverdir with data: reported, and each hint ends the report."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import exported
from tests.support.container import Container, call_devpi, login_token, wait_for

pytestmark = pytest.mark.slow

Make = Callable[..., Container]
OLD, GIVEN = "the old one 12", "the given one 12"


def notices(c: Container, about: str) -> list[dict[str, Any]]:
    """Return the notices of this kind."""
    return [notice for notice in c.status()["notices"] if notice["about"] == about]


def assert_everywhere(c: Container, notice: dict[str, Any], log: str) -> None:
    """Assert that the log, `sidecar status` and the page have it, with the hint."""
    assert 1 == log.count(notice["reason"]), log
    told = c.sidecar("status").stdout
    assert notice["reason"] in told
    assert notice["hint"] in told
    page = c.get("/", accept="text/html").body.decode()
    assert notice["reason"].split(":")[0] in page


# --- archives ---------------------------------------------------------------------------------------------------------


def test_an_archive_that_comes_too_late(container: Make, tmp_path: Path) -> None:
    """Initialised before it was mounted: reported; on an empty volume it is imported, and no longer reported."""
    c = container()
    c.start().wait_ready()
    assert 0 == c.stop()
    exported.pack(exported.write(tmp_path / "export", projects=2), c.init_dir / "backup.bz2")
    before = len(c.log)
    c.start().wait_ready()
    (notice,) = notices(c, "import")
    assert "backup.bz2 in DEVPI_INIT_DIR: not imported, because the serverdir already holds data" == notice["reason"]
    assert_everywhere(c, notice, c.log[before:])
    assert 0 == c.stop()
    shutil.rmtree(c.serverdir)
    for _ in range(2):
        c.start().wait_ready()
        assert ("completed", []) == (c.status()["import"]["state"], notices(c, "import"))
        assert 0 == c.stop()
    assert "already imported: backup.bz2" in c.log


@pytest.mark.parametrize("hint", ["remove", "ignore"])
def test_an_archive_beside_an_adopted_state(container: Make, made_by_devpi: Callable[..., Path], hint: str) -> None:
    """Also of archives that can't be imported; removed, or ignored by the setting, they are not reported."""
    c = container(env={"SIDECAR_SECRET_IS_RANDOM": "true"})
    shutil.copytree(made_by_devpi(OLD), c.serverdir)
    c.init_dir.mkdir()
    (c.init_dir / "backup.7z").write_bytes(b"7z\xbc\xaf\x27\x1c")
    c.start().wait_ready()
    (notice,) = notices(c, "import")
    assert "backup.7z" in notice["reason"]
    assert 0 == c.stop()
    if hint == "remove":
        (c.init_dir / "backup.7z").unlink()
    else:
        c.env["SIDECAR_IGNORE_INIT_FILES"] = "true"
    c.start().wait_ready()
    assert [] == notices(c, "import")


# --- root's password --------------------------------------------------------------------------------------------------


def wait_checked(c: Container) -> list[dict[str, Any]]:
    """Return the notices on root's password, once there are some."""
    wait_for(lambda: notices(c, "root-password"), "the notice")
    return notices(c, "root-password")


def test_a_given_password_that_is_not_root_s(container: Make, made_by_devpi: Callable[..., Path]) -> None:
    """Reported, and `sidecar status` does not claim that it is root's; set as in the hint, it is no longer reported."""
    c = container(env={"DEVPI_PASSWORD": OLD})
    c.start().wait_ready()
    assert "provided" == c.status()["root_password"]["state"]
    assert [] == notices(c, "root-password")
    assert 0 == c.stop()

    c.env["DEVPI_PASSWORD"] = GIVEN
    before = len(c.log)
    c.start().wait_ready()
    (notice,) = wait_checked(c)
    assert "is not used: the serverdir holds data, and its root has another password" in notice["reason"]
    assert_everywhere(c, notice, c.log[before:])
    assert "the one that the operator gave" not in c.sidecar("status").stdout
    assert [200, 401] == [c.login("root", OLD), c.login("root", GIVEN)]
    assert GIVEN not in c.log

    token = login_token(c.devpi, OLD)
    assert 200 == call_devpi(f"{c.devpi}/root", "PATCH", {"password": GIVEN}, token=token).status
    assert 0 == c.stop()
    before = len(c.log)
    c.start().wait_ready()
    assert_quiet(c, before)
    assert 200 == c.login("root", GIVEN)


def assert_quiet(c: Container, before: int) -> None:
    """The provided password was checked, which a claim waits for, and is not reported."""
    assert c.post("/bootstrap/root-password").status in (404, 410)
    assert [] == notices(c, "root-password")
    assert "is not used" not in c.log[before:]


def test_a_given_password_that_is_removed(container: Make, made_by_devpi: Callable[..., Path]) -> None:
    """The other hint; of an adopted state."""
    c = container(env={"DEVPI_PASSWORD": GIVEN, "SIDECAR_SECRET_IS_RANDOM": "true"})
    shutil.copytree(made_by_devpi(OLD), c.serverdir)
    c.start().wait_ready()
    wait_checked(c)
    assert 0 == c.stop()
    del c.env["DEVPI_PASSWORD"]
    before = len(c.log)
    c.start().wait_ready()
    assert_quiet(c, before)


def test_a_password_file_that_stays_is_no_news(container: Make, tmp_path: Path) -> None:
    """As with a compose file: provided at every start, and used at the first."""
    secret = tmp_path / "secret"
    secret.write_text(GIVEN)
    c = container(env={"DEVPI_PASSWORD_FILE": str(secret)})
    for _ in range(2):
        c.start().wait_ready()
        assert_quiet(c, 0)
        assert 0 == c.stop()


def test_a_password_given_to_a_replica(container: Make) -> None:
    """At its first start, too, before its primary has answered; removed, it is no longer reported."""
    flags = ("--host", "127.0.0.1", "--port", "0", "--offline-mode", "--role", "replica")
    c = container(flags=(*flags, "--primary-url", "http://127.0.0.1:9"), env={"DEVPI_PASSWORD": GIVEN})
    for _ in range(2):
        c.start()
        (notice,) = wait_for(lambda: c.status()["notices"], "the notice")
        assert "has no effect on a replica: its users are the primary's" in notice["reason"]
        assert "root-password" == notice["about"]
        c.kill()
    del c.env["DEVPI_PASSWORD"]
    c.start().wait_phase("launching")
    wait_for(lambda: c.status()["devpi"]["addresses"], "devpi-server to listen")
    assert [] == c.status()["notices"]
