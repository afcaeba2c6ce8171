"""A replica that its primary refuses reports the reason, on a real pair."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest

from testbed.upstream import JSON, Upstream
from tests.support.commits import interrupt_commit
from tests.support.container import (
    Container,
    call_devpi,
    cleared_away,
    free_port,
    login_token,
    make_index,
    request,
    upload,
    wait_for,
)
from tests.support.mirrored import config_of

pytestmark = pytest.mark.slow

ARGON2 = ("--argon2-memory-cost", "1024", "--argon2-time-cost", "1", "--argon2-parallelism")
HOST = ("--host", "127.0.0.1", "--no-root-pypi", "--port")


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The primary's."""
    path = tmp_path_factory.mktemp("secret") / "secret"
    path.write_text("fedcba9876543210" * 4)
    return path


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory, secret: Path) -> Iterator[Container]:
    """A primary that all tests share."""
    flags = (*HOST, str(free_port()), "--offline-mode", "--role", "primary", "--secretfile", str(secret), *ARGON2, "1")
    with cleared_away(Container(tmp_path_factory.mktemp("primary"), flags=flags)) as container:
        yield container.start().wait_ready()


def replica_of(primary: Container, make: Callable[..., Container], secret: Path, *flags: str, **env: str) -> Container:
    """Start a replica with this secret. Only --offline-mode would keep it from its primary."""
    own = (*HOST, str(free_port()), "--primary-url", primary.devpi, "--secretfile", str(secret), *flags)
    return make("replica", flags=own, env=env).start().wait_listening()


def refused(replica: Container, why: str) -> dict[str, str]:
    """Return the check `replication`, once it fails with this reason."""

    def look() -> dict[str, str] | None:
        checks: list[dict[str, str]] = replica.get("/health").json["checks"]
        (check,) = [check for check in checks if check["name"] == "replication"]
        return check if check["status"] == "fail" and why in str(check.get("reason")) else None

    found: dict[str, str] = wait_for(look, f"a failure with {why!r}")
    assert replica.get("/readyz").status == 503
    return found


def test_a_pair_that_agrees(primary: Container, container: Callable[..., Container], secret: Path) -> None:
    """With the same secret and the same derivation the replica is ready."""
    replica_of(primary, container, secret, *ARGON2, "1").wait_ready()


def test_one_that_was_killed_while_it_wrote(
    primary: Container, container: Callable[..., Container], secret: Path
) -> None:
    """The half commit is rolled back at the next start; devpi-server, which reads first, would end with code 1."""
    replica = replica_of(primary, container, secret, *ARGON2, "1").wait_ready()
    replica.kill()
    interrupt_commit(replica.serverdir / ".sqlite")
    replica.start().wait_ready()


def test_the_upstream_of_root_pypi_is_the_primarys(container: Callable[..., Container], secret: Path) -> None:
    """DEVPI_MIRROR_URL, which a chart may set for both, changes nothing on a replica and prevents nothing."""
    own = [each for each in HOST if each != "--no-root-pypi"]
    derivation = ("--secretfile", str(secret), *ARGON2, "1")
    flags = (*own, str(free_port()), "--offline-mode", "--role", "primary", *derivation)
    primary = container("primary", flags=flags).start().wait_ready()
    before = config_of(primary, "root/pypi")
    url = "http://127.0.0.1:9/simple/"
    replica = replica_of(primary, container, secret, *ARGON2, "1", DEVPI_MIRROR_URL=url).wait_ready()
    assert config_of(replica, "root/pypi") == before
    assert "DEVPI_MIRROR_URL" not in replica.log
    assert replica.status()["notices"] == []


def test_what_is_advised_about_roots_password(
    primary: Container, container: Callable[..., Container], secret: Path
) -> None:
    """A replica advises nothing that it would refuse; its primary, with its own secret, what succeeds there."""
    replica = replica_of(primary, container, secret, *ARGON2, "1").wait_ready()
    said = replica.sidecar("status").stdout
    assert "root's password: unknown; it is the primary's: rotate at the primary" in said
    assert "`" not in said
    assert "claim" not in replica.log
    claim = replica.sidecar("claim")
    assert (1, "") == (claim.returncode, claim.stdout)
    assert "this is a replica: its users and root's password are the primary's" in claim.stderr

    for expected in ("sidecar claim", "sidecar rotate --keep-logins"):
        (advised,) = re.findall("`(.*?)`", primary.sidecar("status").stdout)
        assert expected == advised
        done = primary.sidecar(*advised.split()[1:])
        assert 0 == done.returncode, done.stderr
        assert 200 == primary.login("root", done.stdout.strip())


@pytest.mark.parametrize("differs", ["secret", "argon2", "random"])
def test_a_pair_that_disagrees(
    primary: Container, container: Callable[..., Container], secret: Path, tmp_path: Path, differs: str
) -> None:
    """Another secret, another --argon2-* value, or SIDECAR_SECRET_IS_RANDOM on one side: reported, with the hint."""
    other = tmp_path / "other"
    other.write_text("0123456789abcdef" * 4)
    if differs == "secret":
        replica = replica_of(primary, container, other, *ARGON2, "1")
    elif differs == "argon2":
        replica = replica_of(primary, container, secret, *ARGON2, "2")
    else:
        replica = replica_of(primary, container, secret, SIDECAR_SECRET_IS_RANDOM="true")
    check = refused(replica, "it rejected the shared secret")
    for setting in ("--secretfile", "SIDECAR_SECRET_IS_RANDOM", "--argon2-*"):
        assert setting in check["hint"]


def test_a_primary_that_is_none(container: Callable[..., Container], secret: Path) -> None:
    """A devpi-server without --role primary refuses every replica."""
    flags = (*HOST, str(free_port()), "--offline-mode", "--secretfile", str(secret), *ARGON2, "1")
    standalone = container("standalone", flags=flags).start().wait_ready()
    replica = replica_of(standalone, container, secret, *ARGON2, "1")
    assert "--role primary" in refused(replica, "it does not run as a primary")["hint"]


def test_a_replica_in_offline_mode(primary: Container, container: Callable[..., Container], secret: Path) -> None:
    """It can't reach its primary either."""
    replica = replica_of(primary, container, secret, *ARGON2, "1", "--offline-mode")
    assert "without --offline-mode" in refused(replica, "--offline-mode disables")["hint"]


Fix = Callable[[Container, Path, bytes, str], None]


def put_back(_primary: Container, path: Path, content: bytes, _token: str) -> None:
    """Restore it, as from a backup."""
    path.write_bytes(content)


def delete_the_version(primary: Container, _path: Path, _content: bytes, token: str) -> None:
    """Delete it, as `devpi remove` does."""
    assert call_devpi(f"{primary.devpi}/root/dev/lost/1.0", "DELETE", token=token).status == 200


def upload_again(primary: Container, _path: Path, content: bytes, token: str) -> None:
    """Upload the same file, as twine does."""
    upload(f"{primary.devpi}/root/dev", token, "lost", content)


@pytest.mark.parametrize(
    ("fix", "restart"),
    [(put_back, True), (delete_the_version, False), (upload_again, True)],
    ids=["restore", "delete", "upload"],
)
def test_a_primary_that_has_lost_a_file(
    container: Callable[..., Container], secret: Path, fix: Fix, restart: bool
) -> None:
    """The file is listed wherever the check is, `+status` answers, the log is short, and the hint works."""
    flags = (*HOST, str(free_port()), "--offline-mode", "--role", "primary", "--secretfile", str(secret), *ARGON2, "1")
    primary = container("primary", flags=flags, env={"DEVPI_PASSWORD": "given"}).start().wait_ready()
    token = login_token(primary.devpi, "given")
    index = make_index(primary.devpi, token)
    for name in ("kept", "lost"):
        upload(index, token, name, name.encode() * 100)
    (path,) = (primary.serverdir / "+files").rglob("lost-1.0.tar.gz")
    content = path.read_bytes()
    path.unlink()
    replica = replica_of(primary, container, secret, *ARGON2, "1")
    name = str(path.relative_to(primary.serverdir / "+files"))
    check = refused(replica, f"1 file could not be replicated, which the primary has lost: {name}")
    assert "restore the file from a backup" in check["hint"]
    assert "delete the version" in check["hint"]
    assert name in replica.get("/readyz").json["checks"][0]["reason"]
    assert name in replica.get("/", accept="text/html").body.decode()
    said = replica.sidecar("status").stdout
    assert name in said
    assert "in sync" not in said
    assert request(f"{replica.devpi}/+status", accept="application/json").status == 200
    fix(primary, path, content, token)
    if restart:
        assert replica.stop() == 0
        replica.start()
    replica.wait_ready()
    assert replica.log.count("Traceback") <= 2, "devpi's own, of the first two attempts"


def test_a_mirror(container: Callable[..., Container], secret: Path) -> None:
    """A replica gets pages and files of a mirror by its primary; a failure of either is 502 or 503, and never 404."""
    login = ("--secretfile", str(secret), *ARGON2, "1")
    flags = (*HOST, str(free_port()), "--role", "primary", *login)
    with Upstream(["first", "second", "third"], versions=1) as upstream:
        primary = container("primary", flags=flags, env={"DEVPI_PASSWORD": "given"}).start().wait_ready()
        config = {"type": "mirror", "mirror_url": upstream.url, "mirror_no_project_list": True}
        token = login_token(primary.devpi, "given")
        assert call_devpi(f"{primary.devpi}/root/mirror", "PUT", config, token=token).status == 200
        replica = replica_of(primary, container, secret, *ARGON2, "1").wait_ready()
        mirror = f"{replica.devpi}/root/mirror/+simple/"

        def links(project: str) -> list[str]:
            page = request(f"{mirror}{project}/", accept=JSON)
            assert page.status == 200
            return [urljoin(f"{mirror}{project}/", file["url"]) for file in page.json["files"]]

        (first,), (second,) = links("first"), links("second")
        assert request(first).status == 200
        upstream.refuse()
        for url in (f"{mirror}third/", second):
            assert request(url, accept=JSON).status in (502, 503), url
        assert primary.stop() == 0
        for url in (f"{mirror}third/", second):
            failed = request(url, accept=JSON)
            assert (failed.status, failed.headers["Retry-After"]) == (503, "3"), url
        assert request(first).status == 200
        assert links("first")
