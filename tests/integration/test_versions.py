"""The oldest and the newest devpi-server that the worker supports; and one that it does not."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.worker.__main__ import SUPPORTED
from testbed.upstream import CUT, GARBAGE, Fault, Upstream, numbered
from tests.support import exported
from tests.support.container import Container, call_devpi, login_token, make_index, request, upload, wait_for
from tests.support.exported import PASSWORDS, Described
from tests.support.mirrored import Mirrored, Page
from tests.support.patches_table import held
from tests.support.transfers import downloading, refuses

pytestmark = pytest.mark.slow

OLDEST = "6.20.0"
TOO_OLD = "6.19.3"


@pytest.fixture(scope="module")
def devpi_server(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that installs a version of devpi-server into a folder, with the environment's dependencies."""

    @functools.cache
    def install(version: str) -> Path:
        target = tmp_path_factory.mktemp(f"devpi-server-{version}")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
        wanted = version if version[0] in "<=>" else f"=={version}"
        subprocess.run([*command, f"devpi-server{wanted}"], check=True)
        return target

    return install


def test_oldest_supported(container: Callable[..., Container], devpi_server: Callable[[str], Path]) -> None:
    """It initialises, serves, logs in, rotates and stops with the oldest release of the range."""
    assert tuple(map(int, OLDEST.split(".")))[:2] == SUPPORTED[0]
    old = container(env={"PYTHONPATH": str(devpi_server(OLDEST))}).start().wait_ready()
    assert old.status()["devpi"]["version"] == OLDEST
    password = old.claim()
    assert old.login("root", password) == 200
    answer = old.post("/bootstrap/rotate")
    assert answer.status == 200
    assert old.login("root", password) == 401
    assert old.login("root", answer.json["password"]) == 200
    assert old.stop() == 0
    assert old.start().wait_ready().login("root", answer.json["password"]) == 200


def test_oldest_supported_holds_what_is_promised(
    container: Callable[..., Container], devpi_server: Callable[[str], Path], rich: Path, tmp_path: Path
) -> None:
    """All patches of devpi-server work with it: the import, what a kill leaves, and the drain."""
    old = container(env={"PYTHONPATH": str(devpi_server(OLDEST))})
    exported.pack(rich, old.init_dir / "backup.tar.gz")
    old.start().wait_ready()
    status = old.status()
    assert (OLDEST, "completed") == (status["devpi"]["version"], status["import"]["state"])
    again, expected = Described.of(exported.export(old.serverdir, tmp_path / "again")), Described.of(rich)
    assert expected.files == again.files
    assert expected.data == again.data

    content = os.urandom(20 * 10**6)
    token = login_token(old.devpi, PASSWORDS["root"])
    link = upload(make_index(old.devpi, token), token, "large", content)
    path = link.partition("#")[0].removeprefix(old.devpi)
    old.kill()
    old.start().wait_ready()
    assert content == request(old.devpi + path).body

    with downloading(old.devpi + path) as rest:
        devpi = old.devpi
        os.kill(old.pid, signal.SIGTERM)
        wait_for(lambda: refuses(devpi), "the listener to close")
        assert old.running
        assert content == rest()
    assert 0 == old.wait_end()
    assert "were cut" not in old.log


def test_oldest_supported_tells_failures(
    container: Callable[..., Container], devpi_server: Callable[[str], Path]
) -> None:
    """A failing upstream of a mirror is a failure with it, in all that inherit; a new root/pypi has the list."""
    env = {"PYTHONPATH": str(devpi_server(OLDEST)), "DEVPI_PASSWORD": "of-root"}
    with Upstream(["cached"], size=10) as upstream:
        offline = container(flags=("--host", "127.0.0.1", "--port", "0", "--offline-mode"), env=env)
        offline.start().wait_ready()
        (index,) = call_devpi(f"{offline.devpi}/root").json["result"]["indexes"].values()
        assert "mirror_no_project_list" not in index
        old = Mirrored(lambda _, **options: container("old", env=env, **options), upstream)
        assert old.container.status()["devpi"]["version"] == OLDEST
        for fault, status in ((Fault(429, "9"), 503), (Fault(500), 503), (GARBAGE, 502), (CUT, 503)):
            fresh = old.again()
            assert fresh.page("dev", "cached") == Page(200, 1, None)
            upstream.page_fault = fault
            for index in ("mirror", "dev", "white"):
                answer = fresh.page(index, numbered(0))
                assert answer.status in (status, 503), (fault, index)
                assert (answer.files, answer.retry_after is None) == (0, False)
            assert fresh.page("dev", "cached") == Page(200, 1, None)
            upstream.heal()
        assert old.page("dev", numbered(0)) == Page(200, 1, None)
        assert old.page("dev", "nowhere").status == 404


@pytest.mark.parametrize("version", [OLDEST, "newest"])
def test_what_we_lean_on_is_there(devpi_server: Callable[[str], Path], version: str) -> None:
    """The whole table of `sidecar.worker.patches` is valid for the oldest release of the range, and for its newest."""
    wanted = f"=={version}" if version == OLDEST else ">={}.{},<{}".format(*SUPPORTED[0], *SUPPORTED[1])
    folder = devpi_server(wanted)
    found, missing, _, _ = held(folder)
    print(f"devpi-server {found}:", *(missing or ["nothing is missing"]), sep="\n  ")
    assert version in (found, "newest")
    assert [] == missing


def test_unsupported_is_refused(container: Callable[..., Container], devpi_server: Callable[[str], Path]) -> None:
    """An older one is reported, with the supported range, before anything on disk is touched."""
    refused = container(env={"PYTHONPATH": str(devpi_server(TOO_OLD))}).start()
    assert refused.wait_end() == 2
    assert f"devpi-server {TOO_OLD} is installed" in refused.log
    assert ">=6.20,<7" in refused.log
    assert not refused.serverdir.exists()
