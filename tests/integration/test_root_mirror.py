"""The mirror `root/pypi` of a new server, and its upstream by DEVPI_MIRROR_URL; nothing here can reach a registry."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from devpi_server.main import _pypi_ixconfig_default

from testbed.upstream import JSON, Upstream
from tests.support.container import Container, call_devpi, login_token, request, wait_for
from tests.support.mirrored import config_of

pytestmark = pytest.mark.slow

OFFLINE = ("--host", "127.0.0.1", "--port", "0", "--offline-mode")
ONLINE = (*OFFLINE[:4], "--request-timeout", "5")
"""Only with DEVPI_MIRROR_URL, or without root/pypi."""
NOWHERE = "http://127.0.0.1:9/simple/"

Make = Callable[..., Container]


def test_a_new_root_pypi_is_devpis_own(container: Make) -> None:
    """It mirrors PyPI, and keeps the list of its projects."""
    c = container(flags=OFFLINE).start().wait_ready()
    config = config_of(c, "root/pypi")
    assert config["mirror_url"] == _pypi_ixconfig_default["mirror_url"]
    assert "mirror_no_project_list" not in config


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_no_root_pypi(container: Make, way: str) -> None:
    """--no-root-pypi and DEVPI_ROOT_PYPI=false: it does not exist, nor after later starts."""
    flags, env = (("--no-root-pypi",), {}) if way == "flag" else ((), {"DEVPI_ROOT_PYPI": "false"})
    c = container(flags=(*OFFLINE, *flags), env=env).start().wait_ready()
    assert call_devpi(f"{c.devpi}/root/pypi").status == 404
    assert c.stop() == 0
    c.flags, c.env = OFFLINE, {"DEVPI_ROOT_PYPI": "true"}
    c.start().wait_ready()
    assert call_devpi(f"{c.devpi}/root/pypi").status == 404


def test_a_contradiction_is_refused(container: Make) -> None:
    """The error names the flag and the variable; nothing is written."""
    c = container(flags=(*OFFLINE, "--no-root-pypi"), env={"DEVPI_ROOT_PYPI": "true"}).start()
    assert c.wait_end() == 2
    assert "--no-root-pypi is true in devpi-server's flags, and DEVPI_ROOT_PYPI is true" in c.log
    assert not c.serverdir.exists()


def test_a_state_without_root_pypi_keeps_its_existing_one(container: Make) -> None:
    """DEVPI_ROOT_PYPI=false deletes nothing: not an existing index, …"""
    c = container(flags=OFFLINE).start().wait_ready()
    assert c.stop() == 0
    c.env["DEVPI_ROOT_PYPI"] = "false"
    c.start().wait_ready()
    assert config_of(c, "root/pypi")["title"] == "PyPI"


def test_an_imported_root_pypi_stays(container: Make) -> None:
    """… nor that of an export, whose upstream DEVPI_MIRROR_URL changes."""
    c = container(flags=OFFLINE, env={"DEVPI_ROOT_PYPI": "false", "DEVPI_MIRROR_URL": NOWHERE})
    config = {"type": "mirror", "volatile": False, "mirror_url": "https://u:old-secret@pypi.corp/", "title": "Ours"}
    index = {"indexconfig": config, "projects": {}, "files": []}
    data = {"dumpversion": "2", "users": {"root": {"pwhash": None}}, "indexes": {"root/pypi": index}}
    (c.init_dir / "export").mkdir(parents=True)
    (c.init_dir / "export" / "dataindex.json").write_text(json.dumps(data))
    c.start().wait_ready()
    found = config_of(c, "root/pypi")
    assert (found["mirror_url"], found["title"], found["volatile"]) == (NOWHERE, "Ours", False)
    assert f"the upstream of root/pypi was https://pypi.corp/ and is now {NOWHERE} (DEVPI_MIRROR_URL)" in c.log
    assert "old-secret" not in c.log
    assert c.status()["notices"] == []


def files_of(c: Container, project: str) -> list[str]:
    """Return the names of a project's files by `root/pypi`."""
    answer = request(f"{c.devpi}/root/pypi/+simple/{project}/", accept=JSON)
    assert answer.status == 200, answer
    return [file["filename"] for file in answer.json["files"]]


def serial_of(c: Container) -> int:
    """Return the number of devpi-server's last transaction."""
    serial: int = call_devpi(f"{c.devpi}/+status").json["result"]["serial"]
    return serial


def test_the_upstream_can_be_changed_between_starts(container: Make) -> None:
    """At the first start, then to another one; other options and cached pages stay, and an equal URL writes nothing."""
    with Upstream(["first"]) as one, Upstream(["second"]) as two:
        env = {"DEVPI_PASSWORD": "of-root", "DEVPI_MIRROR_URL": one.url}
        c = container(flags=ONLINE, env=env).start().wait_ready()
        assert config_of(c, "root/pypi")["mirror_url"] == one.url
        assert len(files_of(c, "first")) == 1
        changes = ["title=Ours", "mirror_cache_expiry=86400", "custom_data=x"]
        token = login_token(c.devpi, "of-root")
        assert call_devpi(f"{c.devpi}/root/pypi", "PATCH", changes, token=token).status == 200
        before = config_of(c, "root/pypi")
        assert c.stop() == 0

        c.env["DEVPI_MIRROR_URL"] = two.url
        c.start().wait_ready()
        assert config_of(c, "root/pypi") == before | {"mirror_url": two.url}
        assert len(files_of(c, "second")) == 1
        assert "/simple/second/" in two.asked
        assert "/simple/second/" not in one.asked
        assert f"the upstream of root/pypi was {one.url} and is now {two.url} (DEVPI_MIRROR_URL)" in c.log
        serial = serial_of(c)
        assert c.stop() == 0

        for same in (two.url.rstrip("/"), "-"):  # the slash is devpi's; without the variable it stays
            c.env["DEVPI_MIRROR_URL"] = same
            c.start().wait_ready()
            assert config_of(c, "root/pypi")["mirror_url"] == two.url
            assert serial_of(c) == serial
            assert c.stop() == 0


def test_without_the_mirror_it_is_said(container: Make) -> None:
    """DEVPI_MIRROR_URL without root/pypi: a notice, and its hint works."""
    env = {"DEVPI_ROOT_PYPI": "false", "DEVPI_MIRROR_URL": NOWHERE, "DEVPI_PASSWORD": "of-root"}
    c = container(flags=OFFLINE, env=env).start().wait_ready()
    (notice,) = wait_for(lambda: c.status()["notices"], "the notice")
    assert notice["reason"] == "DEVPI_MIRROR_URL has no effect: there is no mirror root/pypi"
    command = f"devpi index -c root/pypi type=mirror mirror_url={NOWHERE}"
    assert f"`{command}`" in notice["hint"]
    config = dict(each.split("=") for each in command.split()[-2:])
    token = login_token(c.devpi, "of-root")
    assert call_devpi(f"{c.devpi}/root/pypi", "PUT", config, token=token).status == 200
    assert c.stop() == 0
    c.start().wait_ready()
    assert c.status()["notices"] == []


def test_an_index_that_is_no_mirror_stays(container: Make) -> None:
    """A stage of that name is not changed."""
    env = {"DEVPI_ROOT_PYPI": "false", "DEVPI_PASSWORD": "of-root"}
    c = container(flags=OFFLINE, env=env).start().wait_ready()
    token = login_token(c.devpi, "of-root")
    assert call_devpi(f"{c.devpi}/root/pypi", "PUT", {"type": "stage"}, token=token).status == 200
    before = config_of(c, "root/pypi")
    assert c.stop() == 0
    c.env["DEVPI_MIRROR_URL"] = NOWHERE
    c.start().wait_ready()
    assert config_of(c, "root/pypi") == before
    (notice,) = wait_for(lambda: c.status()["notices"], "the notice")
    assert "there is no mirror root/pypi" in notice["reason"]
