"""States and exports of old devpi-servers are imported or adopted, and lost passwords are reported."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from devpi_server.auth import hash_password
from devpi_server.fileutil import dumps, loads

from sidecar.core.errors import ExitCode
from tests.support.container import Container, call_devpi, login_token, wait_for
from tests.support.old_states import FIXTURES, RANDOM, ROOT_PASSWORD, put_serverdir

pytestmark = pytest.mark.slow

PASSWORD = "secret-123"
OTHERS = ["Bob", "alice", "carol@example.com"]
ARGON2 = ("4.9.0", "5.5.1", "6.2.0-web", "6.9.2")
CLAIM = "/bootstrap/root-password"
SHA256 = {"pwhash": "6a" * 32, "pwsalt": "c2FsdHNhbHQ="}
"""As in devpi-server 2 and 3."""


def put_export(c: Container, version: str) -> None:
    c.init_dir.mkdir()
    shutil.copy(FIXTURES / f"devpi-{version}-export.tar.bz2", c.init_dir)


def unusable(c: Container) -> Any:
    """Return the users that need a new password, once that is known."""
    wait_for(lambda: c.status()["unusable_passwords"] is not None, "the report of the users")
    found: dict[str, Any] = c.status()["unusable_passwords"]
    assert found.pop("hint") == ("as root: `devpi passwd NAME`" if found["total"] else None)
    return found


def edit_users(serverdir: Path, change: Callable[[str, dict[str, Any]], None]) -> None:
    """Change the users of a state that is not served, by the last serial of each: `change(name, record)`."""
    with contextlib.closing(sqlite3.connect(serverdir / ".sqlite")) as database:
        for key, serial in database.execute("SELECT key, serial FROM kv WHERE keyname = 'USER'").fetchall():
            (data,) = database.execute("SELECT data FROM changelog WHERE serial = ?", (serial,)).fetchone()
            entry = loads(data)
            change(key.partition("/")[0], entry[0][key][2])
            database.execute("UPDATE changelog SET data = ? WHERE serial = ?", (dumps(entry), serial))
        database.commit()


# --- import -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ARGON2)
def test_an_export_with_hashes_of_argon2(container: Callable[..., Container], version: str) -> None:
    """It is imported, all users can log in, and none needs a new password."""
    c = container()
    put_export(c, version)
    c.start().wait_ready()
    assert ("completed", "from_import") == (c.status()["import"]["state"], c.status()["root_password"]["state"])
    assert 200 == c.login("root", ROOT_PASSWORD)
    assert [200] * 3 == [c.login(name, PASSWORD) for name in OTHERS]
    assert {"total": 0, "users": []} == unusable(c)
    assert "can't log in" not in c.log


def test_an_export_with_hashes_of_sha256(container: Callable[..., Container]) -> None:
    """Root's counts as none: generated and claimable. The others are listed until they have new ones."""
    c = container()
    put_export(c, "3.1.2")
    c.start().wait_ready()
    assert ("completed", "claimable") == (c.status()["import"]["state"], c.status()["root_password"]["state"])
    password = c.claim()
    assert [200, 401] == [c.login("root", password), c.login("root", "")]

    assert {"total": 3, "users": OTHERS} == unusable(c)
    assert "devpi-server can't check their password hashes: 3 (Bob, alice, carol@example.com)" in c.log
    assert "3 users need a new password" in c.get("/", accept="text/html").body.decode()
    assert "Bob, alice, carol@example.com" in c.sidecar("status").stdout

    token = login_token(c.devpi, password)
    for name in OTHERS:
        assert 200 == call_devpi(f"{c.devpi}/{name}", "PATCH", {"password": "new-123"}, token=token).status
    assert [200] * 3 == [c.login(name, "new-123") for name in OTHERS]
    wait_for(lambda: c.status()["unusable_passwords"]["total"] == 0, "an empty list")
    assert "devpi-server can check the passwords of all users again" in c.log


def test_an_export_with_hashes_of_sha256_and_a_given_password(container: Callable[..., Container]) -> None:
    """The provided one is root's, as with any export."""
    c = container(env={"DEVPI_PASSWORD": "given-1234"})
    put_export(c, "3.1.2")
    c.start().wait_ready()
    assert "provided" == c.status()["root_password"]["state"]
    assert 200 == c.login("root", "given-1234")


# --- adoption ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ARGON2)
def test_a_serverdir_with_hashes_of_argon2(container: Callable[..., Container], version: str) -> None:
    """It is adopted, and all users can log in."""
    c = container(env=RANDOM)
    put_serverdir(c, version)
    c.start().wait_ready()
    assert "unknown" == c.status()["root_password"]["state"]
    assert 200 == c.login("root", ROOT_PASSWORD)
    assert [200] * 3 == [c.login(name, PASSWORD) for name in OTHERS]
    assert {"total": 0, "users": []} == unusable(c)


def test_a_serverdir_of_devpi_3(container: Callable[..., Container]) -> None:
    """It is refused with a hint, and unchanged."""
    c = container(env=RANDOM)
    put_serverdir(c, "3.1.2")
    assert ExitCode.DAMAGED == c.start().wait_end()
    assert "export it with the devpi-server that created it (devpi-export)" in c.log


def adopted(c: Container, root: dict[str, str]) -> Container:
    """A container on a state whose root has this hash, and alice a truncated one."""

    def change(name: str, record: dict[str, Any]) -> None:
        if name == "root":
            record.update(root)
        elif name == "alice":
            record["pwhash"] = record["pwhash"][:40]

    put_serverdir(c, "6.9.2")
    edit_users(c.serverdir, change)
    return c.start()


TRUNCATED = {"pwhash": "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ"}


@pytest.mark.parametrize("root", [SHA256, TRUNCATED], ids=["sha256", "truncated"])
def test_a_root_that_cant_log_in(container: Callable[..., Container], root: dict[str, str]) -> None:
    """A password is generated and claimable, now and after a restart; others are listed and unchanged."""
    c = adopted(container(env=RANDOM), root).wait_ready()
    assert "claimable" == c.status()["root_password"]["state"]
    assert {"total": 1, "users": ["alice"]} == unusable(c)
    assert "can't check root's password hash, so nobody could log in as root: a generated password was set" in c.log
    assert ExitCode.STOPPED == c.stop()

    c.start().wait_ready()
    assert "claimable" == c.status()["root_password"]["state"]
    assert {"total": 1, "users": ["alice"]} == unusable(c)
    password = c.claim()
    assert [200, 200, 401] == [c.login("root", password), c.login("Bob", PASSWORD), c.login("root", ROOT_PASSWORD)]
    assert 1 == c.log.count("a generated password was set")


def test_a_root_that_cant_log_in_and_a_given_password(container: Callable[..., Container]) -> None:
    """The provided one is set."""
    c = adopted(container(env=RANDOM | {"DEVPI_PASSWORD": "given-1234"}), SHA256).wait_ready()
    assert "provided" == c.status()["root_password"]["state"]
    assert 200 == c.login("root", "given-1234")
    assert 404 == c.post(CLAIM).status


def test_a_name_of_unknown_origin(container: Callable[..., Container]) -> None:
    """It appears as text on the page and in the log."""
    c = container(env=RANDOM)
    put_serverdir(c, "6.9.2")
    evil = "<b>\x1b[31m\u202e"
    with contextlib.closing(sqlite3.connect(c.serverdir / ".sqlite")) as database:
        (serial,) = database.execute("SELECT max(serial) FROM changelog").fetchone()
        (users,) = database.execute("SELECT serial FROM kv WHERE key = '.config'").fetchone()
        (data,) = database.execute("SELECT data FROM changelog WHERE serial = ?", (users,)).fetchone()
        names = loads(data)[0][".config"][2] | {evil}
        record = {"indexes": {}, **SHA256}
        changes = {".config": ("USERLIST", users, names), f"{evil}/.config": ("USER", -1, record)}
        entry = dumps((changes, []))
        database.execute("INSERT INTO changelog (serial, data) VALUES (?, ?)", (serial + 1, entry))
        database.execute("UPDATE kv SET serial = ? WHERE key = '.config'", (serial + 1,))
        database.execute("INSERT INTO kv VALUES (?, 'USER', ?)", (f"{evil}/.config", serial + 1))
        database.commit()
    c.start().wait_ready()
    assert {"total": 1, "users": [evil]} == unusable(c)
    page, log, told = c.get("/", accept="text/html").body.decode(), c.log, c.sidecar("status").stdout
    assert "&lt;b&gt;\\x1b[31m\\u202e" in page
    for text in (log, told):
        assert "<b>\\x1b[31m\\u202e" in text
        assert not {"\x1b", "\u202e"} & set(text)


# --- while it serves --------------------------------------------------------------------------------------------------


def root_check(c: Container) -> dict[str, Any]:
    return next(check for check in c.get("/health").json["checks"] if check["name"] == "root-password")


@pytest.mark.parametrize("allowed", ["false", "true"])
def test_root_password_emptied_and_set(container: Callable[..., Container], allowed: str) -> None:
    """The check notices either within seconds, without a restart; SIDECAR_ALLOW_EMPTY_ROOT makes it a warning."""
    c = container(env={"DEVPI_PASSWORD": ROOT_PASSWORD, "SIDECAR_ALLOW_EMPTY_ROOT": allowed}).start().wait_ready()
    token = login_token(c.devpi, ROOT_PASSWORD)
    assert 200 == call_devpi(f"{c.devpi}/root", "PATCH", {"password": ""}, token=token).status
    expected = "warn" if allowed == "true" else "fail"
    check = wait_for(lambda: (found := root_check(c))["status"] == expected and found, "the check to notice it")
    assert "root's password is empty" in check["reason"]
    assert (200 if allowed == "true" else 503) == c.get("/readyz").status
    if allowed == "false":
        assert "sidecar rotate" in check["hint"]

    assert 200 == call_devpi(f"{c.devpi}/root", "PATCH", {"password": "another-1234"}, token=token).status
    wait_for(lambda: root_check(c)["status"] == "pass", "the check to pass again")
    assert 200 == c.get("/readyz").status


def test_root_password_emptied_and_rotated(container: Callable[..., Container]) -> None:
    """The hint works at once; emptied again, it is noticed again."""
    c = container(env={"DEVPI_PASSWORD": ROOT_PASSWORD}).start().wait_ready()
    password = ROOT_PASSWORD
    for _ in range(2):
        token = login_token(c.devpi, password)
        assert 200 == call_devpi(f"{c.devpi}/root", "PATCH", {"password": ""}, token=token).status
        wait_for(lambda: root_check(c)["status"] == "fail", "the check to notice it")
        rotated = c.sidecar("rotate")
        assert 0 == rotated.returncode, rotated.stderr
        assert "pass" == root_check(c)["status"]
        password = rotated.stdout.split()[-1]


def test_root_password_that_becomes_unusable(container: Callable[..., Container]) -> None:
    """Changed by the database's tools: root can't log in, and the check reports it."""
    c = container(env={"DEVPI_PASSWORD": ROOT_PASSWORD}).start().wait_ready()
    token = login_token(c.devpi, ROOT_PASSWORD)
    body = {"pwhash": "not a hash", "pwsalt": "salt"}
    assert 200 == call_devpi(f"{c.devpi}/root", "PATCH", body, token=token).status
    check = wait_for(lambda: (found := root_check(c))["status"] == "fail" and found, "the check to notice it")
    assert "so root can't log in" in check["reason"]
    assert "sidecar rotate" in check["hint"]
    assert 0 == c.sidecar("rotate").returncode
    assert 200 == c.get("/readyz").status


@pytest.mark.filterwarnings("ignore:Accessing argon2.__version__:DeprecationWarning")  # passlib does
def test_another_password_is_no_news(container: Callable[..., Container]) -> None:
    """Root's password is changed, and an index of root's is made, which changes the record, too."""
    c = container(env={"DEVPI_PASSWORD": ROOT_PASSWORD}).start().wait_ready()
    token = login_token(c.devpi, ROOT_PASSWORD)
    body = {"pwhash": hash_password("another-1234")}
    assert 200 == call_devpi(f"{c.devpi}/root", "PATCH", body, token=token).status
    assert 200 == call_devpi(f"{c.devpi}/root/dev", "PUT", {"bases": []}, token=token).status
    assert 200 == call_devpi(f"{c.devpi}/root", "PATCH", {"password": ""}, token=token).status
    wait_for(lambda: root_check(c)["status"] == "fail", "the check to notice the change")
    assert 1 == c.log.count("check root-password")
