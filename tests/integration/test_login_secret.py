"""The secret of devpi's login tokens: kept over restarts, whatever Kubernetes or an operator does to its files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import OTHER_USER
from tests.support.container import Container, login_token, token_holds, wait_for

pytestmark = pytest.mark.slow


def everything(folder: Path) -> Iterator[Path]:
    """Return the folder and all that is in it."""
    yield folder
    yield from folder.rglob("*")


def as_fs_group_does(folder: Path, group: int) -> None:
    """`chown -R :GROUP` and `chmod -R g+rwX,g+s`: files 0660, folders 2770."""
    for path in everything(folder):
        os.chown(path, -1, group)
        mode = stat.S_IMODE(path.stat().st_mode) | (0o2070 if path.is_dir() else 0o060)
        path.chmod(mode)


def change_owner(folder: Path, user: int) -> None:
    """`chown -R USER:USER`."""
    for path in everything(folder):
        os.chown(path, user, user)


def test_a_login_outlives_a_restart(container: Callable[..., Container]) -> None:
    """The token of a login before a stop is valid after the next start, and also after one that follows a kill."""
    c = container().start().wait_ready()
    token = login_token(c.devpi, c.claim())
    forged = ("a" if token[-9] != "a" else "b").join((token[:-9], token[-8:]))  # the last character has unused bits
    assert not token_holds(c.devpi, forged)
    assert 0 == c.stop()
    c.start().wait_ready()
    assert token_holds(c.devpi, token)

    c.kill()
    c.start().wait_ready()
    assert token_holds(c.devpi, token)


def test_a_login_outlives_fs_group(container: Callable[..., Container]) -> None:
    """After Kubernetes' recursive chmod devpi-server starts, the login is valid, and our secrets are private again."""
    c = container().start().wait_ready()
    token = login_token(c.devpi, c.claim())
    assert 0 == c.stop()
    as_fs_group_does(c.serverdir, os.getgid())
    assert {0o660, 0o2770} == {stat.S_IMODE(path.stat().st_mode) for path in everything(c.serverdir)}

    c.start().wait_ready()
    assert token_holds(c.devpi, token)
    closed = {path: stat.S_IMODE(path.stat().st_mode) for path in everything(c.serverdir / ".sidecar")}
    assert {} == {path: oct(mode) for path, mode in closed.items() if mode & 0o077}
    assert 0o600 == stat.S_IMODE((c.runtime / "login-secret").stat().st_mode)


def test_a_login_outlives_a_change_of_uid(other_user: Callable[..., Container]) -> None:
    """The volume, given to another uid by chown -R, is served by that one; the login is valid."""
    c = other_user().start().wait_ready()
    assert OTHER_USER == (c.serverdir / ".sidecar/login-secret.json").stat().st_uid
    token = login_token(c.devpi, c.claim())
    assert 0 == c.stop()

    c.user = OTHER_USER + 1
    assert 73 == c.start().wait_end(), "neither the serverdir nor the runtime directory is this user's"
    change_owner(c.home, c.user)
    c.start().wait_ready()
    assert token_holds(c.devpi, token)
    assert OTHER_USER + 1 == (c.runtime / "login-secret").stat().st_uid


def test_a_serverdir_of_another_uid_is_named(other_user: Callable[..., Container]) -> None:
    """A serverdir that this uid can't write to: exit 73 with both uids and the hint, and nothing in it changed."""
    c = other_user()
    c.serverdir.mkdir(mode=0o755)

    assert 73 == c.start().wait_end()
    assert f"not writable for uid {OTHER_USER}" in c.log
    assert "belongs to uid 0" in c.log
    assert f"chown -R {OTHER_USER}:{OTHER_USER}" in c.log
    assert [] == list(c.serverdir.iterdir())


def test_another_uid_by_way_of_the_group(other_user: Callable[..., Container]) -> None:
    """fsGroup and another uid of the same group, without a chown by the user: the login is valid."""
    group = OTHER_USER + 7
    c = other_user().start().wait_ready()
    token = login_token(c.devpi, c.claim())
    assert 0 == c.stop()
    as_fs_group_does(c.serverdir, group)
    change_owner(c.runtime, OTHER_USER + 1)
    c.home.chmod(0o777)  # its log

    c.user, c.group = OTHER_USER + 1, group
    c.start().wait_ready()
    assert token_holds(c.devpi, token)
    assert OTHER_USER + 1 == (c.serverdir / ".sidecar/login-secret.json").stat().st_uid
    assert 0o600 == stat.S_IMODE((c.serverdir / ".sidecar/login-secret.json").stat().st_mode)


def test_a_secret_in_the_serverdir_is_adopted(
    container: Callable[..., Container], made_by_devpi: Callable[..., Path]
) -> None:
    """`.secret`, where older devpi-servers kept it, stays the secret, whatever its mode."""
    c = container(flags=cheap_flags())
    shutil.copytree(made_by_devpi("foreign password"), c.serverdir)
    secret = "0123456789abcdef" * 4
    (c.serverdir / ".secret").write_text(secret)
    (c.serverdir / ".secret").chmod(0o664)
    c.start().wait_ready()
    token = login_token(c.devpi, "foreign password")
    assert secret == (c.runtime / "login-secret").read_text()
    assert "adopted" == json.loads((c.serverdir / ".sidecar/login-secret.json").read_text())["origin"]
    assert 0 == c.stop()

    c.start().wait_ready()
    assert token_holds(c.devpi, token)


def cheap_flags() -> tuple[str, ...]:
    """Return flags for a derivation of keys with little memory: an adopted secret gets devpi's 512 MiB."""
    derivation = ("--argon2-memory-cost", "1024", "--argon2-time-cost", "1", "--argon2-parallelism", "1")
    return ("--host", "127.0.0.1", "--port", "0", "--no-root-pypi", "--offline-mode", *derivation)


def test_an_operators_own_secretfile(container: Callable[..., Container], tmp_path: Path) -> None:
    """--secretfile works with mode 0440 of a Kubernetes secret, behind links, which plain devpi-server rejects."""
    (tmp_path / "mounted/..data").mkdir(parents=True)
    secret = tmp_path / "mounted/..data/secret"
    secret.write_text("fedcba9876543210" * 4)
    secret.chmod(0o440)
    (tmp_path / "mounted/secret").symlink_to("..data/secret")
    c = container(flags=(*cheap_flags(), "--secretfile", str(tmp_path / "mounted/secret"))).start().wait_ready()
    token = login_token(c.devpi, c.claim())
    assert not (c.serverdir / ".sidecar/login-secret.json").exists()
    rotated = c.post("/bootstrap/rotate")
    assert (409, True) == (rotated.status, "--secretfile" in rotated.json["detail"])
    assert 200 == c.post("/bootstrap/rotate?keep_logins=true").status
    assert 0 == c.stop()
    c.start().wait_ready()
    assert token_holds(c.devpi, token)
    assert 0 == c.stop()

    secret.unlink()
    secret.write_text("another, of the length that devpi wants to have")
    c.start().wait_ready()
    wait_for(lambda: not token_holds(c.devpi, token), "the end of the old logins")


@pytest.mark.parametrize("content", [None, "short", "a" * 64], ids=["absent", "short", "poor"])
def test_a_bad_secretfile(container: Callable[..., Container], tmp_path: Path, content: str | None) -> None:
    """A --secretfile that devpi-server would fail on is reported, with the hint, and without its content."""
    path = tmp_path / "secret"
    if content is not None:
        path.write_text(content)
    c = container(flags=(*cheap_flags(), "--secretfile", str(path))).start()

    assert c.wait_end() == 2
    assert "--secretfile" in c.log
    assert not c.serverdir.exists()
    assert content is None or f"'{content}'" not in c.log


def keys_of(c: Container) -> dict[str, str]:
    """Return the record of the derived key."""
    noted: dict[str, str] = json.loads((c.serverdir / ".sidecar/derivation").read_text())
    return noted


def test_keys_derived_in_another_way_are_told(container: Callable[..., Container], tmp_path: Path) -> None:
    """Other values of --argon2-*, SIDECAR_SECRET_IS_RANDOM, another secret: logins end, and the log has the reason."""
    secret = tmp_path / "secret"
    secret.write_text("fedcba9876543210" * 4)
    flags = ("--host", "127.0.0.1", "--port", "0", "--no-root-pypi", "--offline-mode", "--secretfile", str(secret))
    argon2 = ("--argon2-memory-cost", "1024", "--argon2-time-cost", "1", "--argon2-parallelism")
    c = container(flags=(*flags, *argon2, "1"), env={"DEVPI_PASSWORD": "of-root"}).start().wait_ready()
    token = login_token(c.devpi, "of-root")
    assert "m=1024,t=1,p=1" == keys_of(c)["argon2"]
    of_the_secret = hashlib.sha256(secret.read_bytes()).hexdigest()
    assert of_the_secret[:16] not in (c.serverdir / ".sidecar/derivation").read_text()
    assert 0 == c.stop()
    c.start().wait_ready()
    assert token_holds(c.devpi, token)
    assert 0 == c.stop()
    assert "logins have ended" not in c.log

    c.flags = (*flags, *argon2, "2")
    c.start().wait_ready()
    assert not token_holds(c.devpi, token)
    assert 0 == c.stop()
    assert "changed (argon2 m=1024,t=1,p=2, it was m=1024,t=1,p=1): all logins have ended" in c.log

    c.flags, c.env = flags, c.env | {"SIDECAR_SECRET_IS_RANDOM": "true"}
    c.start().wait_ready()
    assert 0 == c.stop()
    assert "from the login secret changed (argon2 m=8,t=1,p=1, it was m=1024,t=1,p=2)" in c.log

    secret.write_text("another, of the length that devpi wants to have")
    c.start().wait_ready()
    assert 0 == c.stop()
    assert "the login secret changed: all logins have ended" in c.log


def test_renewed_and_older_notes_are_no_news(container: Callable[..., Container]) -> None:
    """A rotation, which ends all logins, and a record in an older format cause no warning at the next start."""
    c = container(env={"DEVPI_PASSWORD": "of-root"}).start().wait_ready()
    before = keys_of(c)
    assert ("m=8,t=1,p=1", "kept") == (before["argon2"], before["secret"])
    assert 200 == c.post("/bootstrap/rotate").status
    assert 0 == c.stop()
    c.start().wait_ready()
    assert keys_of(c)["key"] != before["key"]
    assert 0 == c.stop()

    (c.serverdir / ".sidecar/derivation").write_text("0123456789abcdef devpi")
    c.start().wait_ready()
    assert {"key", "argon2", "secret"} == set(keys_of(c))
    assert 0 == c.stop()
    assert "logins have ended" not in c.log
