"""Volumes of users: from a NAS, from other images, prepared manually. Each hint is followed, and works."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable

import pytest

from sidecar.core.errors import ExitCode
from tests.support import exported
from tests.support.container import Container
from tests.support.harmless import HARMLESS
from tests.support.old_states import FIXTURES, RANDOM, ROOT_PASSWORD, put_serverdir

pytestmark = pytest.mark.slow

Make = Callable[..., Container]
DAMAGED = ExitCode.DAMAGED


def hinted_serverdir(c: Container) -> str:
    """Return the DEVPI_SERVERDIR of the last hint in the log."""
    return c.log.rpartition("set DEVPI_SERVERDIR=")[2].partition(" (or --serverdir)")[0]


def test_a_volume_with_what_others_leave_is_initialised(container: Make) -> None:
    """All harmless names at once; they are unchanged afterwards, also at the next start."""
    c = container()
    for name in HARMLESS:
        (c.serverdir / name).mkdir(parents=True)
        (c.serverdir / name / "theirs").write_text(name)
    for _ in range(2):
        c.start().wait_ready()
        assert 0 == c.stop()
    assert all((c.serverdir / name / "theirs").read_text() == name for name in HARMLESS)


def test_a_volume_of_others_and_the_way_out(container: Make) -> None:
    """Refused with its name; with the DEVPI_SERVERDIR of the hint it is initialised beside the existing data."""
    c = container()
    (c.serverdir / "photos").mkdir(parents=True)
    (c.serverdir / "photos/cat.jpg").write_bytes(b"meow")
    assert DAMAGED == c.start().wait_end()
    assert "it holds photos" in c.log
    c.env["DEVPI_SERVERDIR"] = hinted_serverdir(c)
    assert f"{c.serverdir}/state" == c.env["DEVPI_SERVERDIR"]
    c.start().wait_ready()
    assert (c.serverdir / "state/.nodeinfo").exists()
    assert {"photos", "state", ".sidecar"} == exported.names(c.serverdir)


@pytest.mark.parametrize("below", ["server", ".devpi/server"])
def test_a_state_one_folder_deeper(container: Make, below: str) -> None:
    """As other images have it: refused with the folder's name; with that it is adopted, and root can log in."""
    c = container(env=dict(RANDOM))
    put_serverdir(c, "6.9.2")
    volume = c.home / "volume"
    (volume / below).parent.mkdir(parents=True)
    c.serverdir.rename(volume / below)
    c.env["DEVPI_SERVERDIR"] = str(volume)
    assert DAMAGED == c.start().wait_end()
    assert f"its folder {below} does" in c.log
    c.env["DEVPI_SERVERDIR"] = hinted_serverdir(c)
    c.start().wait_ready()
    assert 200 == c.login("root", ROOT_PASSWORD)


def test_a_login_secret_and_a_configuration_that_were_prepared(container: Make) -> None:
    """The serverdir counts as empty; the secret is adopted, also at the next start, and both files stay."""
    c = container(env=dict(RANDOM))
    c.serverdir.mkdir()
    secret = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJ"
    (c.serverdir / ".secret").write_text(secret)
    (c.serverdir / "devpi.yml").write_text("devpi-server:\n  threads: 20\n")
    for _ in range(2):
        c.start().wait_ready()
        assert secret == (c.runtime / "login-secret").read_text()
        assert 0 == c.stop()
    assert "adopted" == json.loads((c.serverdir / ".sidecar/login-secret.json").read_text())["origin"]
    assert secret == (c.serverdir / ".secret").read_text()
    assert (c.serverdir / "devpi.yml").exists()


def test_a_prepared_login_secret_that_devpi_would_refuse(container: Make) -> None:
    """Too short: reported before anything is initialised; once moved away, it starts."""
    c = container()
    c.serverdir.mkdir()
    (c.serverdir / ".secret").write_text("short")
    assert DAMAGED == c.start().wait_end()
    assert "the serverdir's .secret has 5 bytes" in c.log
    assert {".secret", ".sidecar"} == exported.names(c.serverdir)
    (c.serverdir / ".secret").unlink()
    c.start().wait_ready()


@pytest.mark.parametrize("packed", [True, False])
def test_a_serverdir_in_place_of_an_export(container: Make, packed: bool) -> None:
    """Reported as an export, with a hint: unpacked onto the volume, it is adopted, and root can log in."""
    c = container(env=dict(RANDOM))
    c.init_dir.mkdir()
    archive = FIXTURES / "devpi-6.9.2-serverdir.tar.bz2"
    name = "backup.tar.bz2" if packed else "backup"
    if packed:
        shutil.copy(archive, c.init_dir / name)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(c.init_dir / name / "data/server")
    error = c.start().wait_phase("failed")["import"]["error"]
    assert (name, "data/server" if not packed else None) == (error["archive"], error["member"])
    assert "is a devpi-server state (a serverdir), not an export" in error["reason"]
    assert "onto the empty volume" in error["hint"]
    assert "devpi-export" in error["hint"]
    assert 0 == c.stop()
    if packed:
        with tarfile.open(c.init_dir / name) as tar:
            tar.extractall(c.serverdir)
    else:
        shutil.copytree(c.init_dir / name / "data/server", c.serverdir, dirs_exist_ok=True)
    c.start().wait_ready()
    assert 200 == c.login("root", ROOT_PASSWORD)


def test_a_serverdir_of_devpi_3_in_place_of_an_export(container: Make) -> None:
    """This devpi-server can't adopt it: the only way is an export by the version that made it."""
    c = container()
    c.init_dir.mkdir()
    shutil.copy(FIXTURES / "devpi-3.1.2-serverdir.tar.bz2", c.init_dir)
    error = c.start().wait_phase("failed")["import"]["error"]
    assert "state version '3.1.2'" in error["reason"]
    assert "onto the empty volume" not in error["hint"]
    assert "devpi-export" in error["hint"]
