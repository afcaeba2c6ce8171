"""A devpi-server in which argon2 can't run because of a memory limit: that is never taken for an answer."""

from __future__ import annotations

import base64
import json
import re
import resource
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testbed.plugins import installed_plugin
from tests.support.container import Container, call_devpi, login_token, wait_for

pytestmark = pytest.mark.slow

_ROOM = 32 * 2**20
"""Bytes that the process may still allocate: argon2 needs 64 MiB."""
_SHORT_WHILE_IT_LOOKS = f"""
import pathlib, re, resource
from pluggy import HookimplMarker

@HookimplMarker("devpiserver")
def devpiserver_cmdline_run(xom):
    from waitress import server
    create_server = server.create_server
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(re.search(r"VmSize:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) * 1024

    def enough_again(*arguments, **options):
        resource.setrlimit(resource.RLIMIT_AS, before)
        return create_server(*arguments, **options)

    server.create_server = enough_again
    resource.setrlimit(resource.RLIMIT_AS, (used + {_ROOM}, before[1]))
"""
"""A plugin that limits memory from the opening of the state until the server is made."""


@contextmanager
def short_of_memory(devpi: Container) -> Iterator[None]:
    """Limit memory, so that argon2 gets none in devpi-server; everything else works."""
    used = re.search(r"VmSize:\s+(\d+)", Path(f"/proc/{devpi.devpi_pid}/status").read_text())
    assert used
    before = resource.prlimit(devpi.devpi_pid, resource.RLIMIT_AS)
    resource.prlimit(devpi.devpi_pid, resource.RLIMIT_AS, (int(used[1]) * 1024 + _ROOM, before[1]))
    try:
        yield
    finally:
        resource.prlimit(devpi.devpi_pid, resource.RLIMIT_AS, before)


def asked(url: str, headers: dict[str, str], method: str = "GET", content: object = None) -> tuple[int, str | None]:
    """Return the status of one request, and its Retry-After."""
    data = None if content is None else json.dumps(content).encode()
    told = {"Accept": "application/json", "Content-Type": "application/json", **headers}
    call = urllib.request.Request(url, data, told, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(call, timeout=30) as answer:
            return answer.status, answer.headers["Retry-After"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Retry-After"]


def with_secret(header: str, secret: str) -> dict[str, str]:
    value = base64.b64encode(f"root:{secret}".encode()).decode()
    return {header: f"Basic {value}" if header == "Authorization" else value}


def test_an_empty_root_password_does_not_pass(
    container: Callable[..., Container], made_by_devpi: Callable[..., Path], tmp_path: Path
) -> None:
    """Nothing is remembered: with enough memory, the next start sees that it is empty."""
    c = container(env=installed_plugin(tmp_path / "plugin", "short_while", _SHORT_WHILE_IT_LOOKS))
    shutil.copytree(made_by_devpi(""), c.serverdir)
    c.start().wait_listening()
    wait_for(lambda: c.get("/readyz/http").status == 200, "devpi's answer")
    answer = wait_for(lambda: (a := c.get("/readyz/root-password")).json["reason"] != "not checked yet" and a, "news")
    assert (503, 503) == (answer.status, c.get("/readyz").status)
    assert "argon2 can't run" in answer.json["reason"]
    assert not (c.serverdir / ".sidecar/root-hash").exists()
    assert 200 == c.login("root", "")
    assert 0 == c.stop()

    c.env = {}
    c.start().wait_listening()
    wait_for(lambda: c.get("/readyz/root-password").json["reason"] == "root's password is empty", "the probe")
    assert "$argon2" not in c.log


def test_clients_come_again(container: Callable[..., Container]) -> None:
    """In any header a right password is not refused as wrong; a new one is not refused for good."""
    c = container(env={"DEVPI_PASSWORD": "right"}).start().wait_ready()
    token = with_secret("X-Devpi-Auth", login_token(c.devpi, "right"))
    assert 0 == c.stop()  # a password that has matched is remembered for a while
    del c.env["DEVPI_PASSWORD"]  # a provided one is checked at each start
    c.start().wait_ready()
    requests: list[tuple[str, dict[str, str], str, object]] = [
        ("/+login", {}, "POST", {"user": "root", "password": "right"}),
        ("/+login", {}, "POST", {"user": "root", "password": "wrong"}),
        ("/+api", with_secret("Authorization", "right"), "GET", None),
        ("/+api", with_secret("X-Devpi-Auth", "right"), "GET", None),
        ("/root", with_secret("Authorization", "right"), "PATCH", {"title": "x"}),
        ("/root", token, "PATCH", {"password": "new"}),
        ("/alice", token, "PUT", {"password": "of-alice"}),
    ]
    with short_of_memory(c):
        for path, headers, method, content in requests:
            status, retry_after = asked(c.devpi + path, headers, method, content)
            assert status == 503, (path, method, headers)
            assert int(retry_after or 0) >= 1
        assert (200, None) == asked(f"{c.devpi}/+api", token), "a login token needs no argon2"
        rotated = c.post("/bootstrap/rotate")
        assert (503, "not-yet") == (rotated.status, rotated.json["type"].rpartition(":")[2])
        assert int(rotated.headers["Retry-After"]) >= 1
        assert "provided" == c.status()["root_password"]["state"], "nothing has begun"
    assert [200, 401] == [c.login("root", "right"), c.login("root", "new")]
    assert 404 == call_devpi(f"{c.devpi}/alice").status
    assert 200 == c.post("/bootstrap/rotate").status
    assert "$argon2" not in c.log
    assert "argon2 can't run (Memory allocation error)" in c.log


def test_a_claim_waits(container: Callable[..., Container]) -> None:
    """It is no sign of a password that was changed by other means."""
    c = container().start().wait_ready()
    with short_of_memory(c):
        claim = c.post("/bootstrap/root-password")
    assert (503, "not-yet") == (claim.status, claim.json["type"].rpartition(":")[2])
    assert "changed by other means" not in c.log
    assert 200 == c.login("root", c.claim())


_PATCHES_HASHES = """
from pluggy import HookimplMarker

@HookimplMarker("devpiserver")
def devpiserver_cmdline_run(xom):
    from waitress import server
    create_server = server.create_server

    def patched(*arguments, **options):
        with xom.keyfs.write_transaction():
            for name, (pwhash, pwsalt) in HASHES.items():
                user = xom.model.create_user(name, password="x")
                with user.key.update() as config:
                    config["pwhash"] = pwhash
                    config["pwsalt"] = pwsalt
        return create_server(*arguments, **options)

    server.create_server = patched
"""


def test_an_unusable_hash_matches_no_password(container: Callable[..., Container], tmp_path: Path) -> None:
    """A truncated hash, and one of devpi-server 3, which today's can't check: 401 as for any wrong password."""
    whole = "$argon2id$v=19$m=65536,t=3,p=4$PefcuxfCeC+lNAZgLMWYsw$BOIPsxZI0weMBA6gXVzvRkPDu+9BD/CPpZaQWlpAZ6c"
    hashes = {
        "truncated": (whole[:60], None),
        "headless": (whole[20:], None),
        "digestless": (whole[: whole.rindex("$") + 3], None),
        "old": ("0" * 64, "c2FsdA=="),
        "heavy": (whole.replace("65536", "4194304"), None),
    }
    source = f"HASHES = {hashes!r}\n{_PATCHES_HASHES}"
    plugin = installed_plugin(tmp_path / "plugin", "patches_hashes", source)
    c = container(env=plugin | {"DEVPI_PASSWORD": "right"}).start().wait_ready()
    for name in hashes:
        assert 401 == c.login(name, "x"), name
        basic = {"Authorization": "Basic " + base64.b64encode(f"{name}:x".encode()).decode()}
        assert (200, None) == asked(f"{c.devpi}/+api", basic)
    assert 200 == c.login("root", "right")
    assert "$argon2" not in c.log
    assert whole[60:] not in c.log


_SHORT_FOR_A_HASH = f"""
import pathlib, re, resource
from passlib.context import CryptContext
make = CryptContext.hash

def hash(context, secret):
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(re.search(r"VmSize:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + {_ROOM}, before[1]))
    try:
        return make(context, secret)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)

CryptContext.hash = hash
"""
"""A plugin that limits memory whenever a password is hashed."""


@pytest.mark.parametrize("how", ["first start", "import"])
def test_a_first_state_is_tried_again(
    container: Callable[..., Container], made_by_devpi: Callable[..., Path], tmp_path: Path, how: str
) -> None:
    """A failure for lack of memory is reported as such, and the next start succeeds."""
    c = container(env=installed_plugin(tmp_path / "plugin", "short_for_a_hash", _SHORT_FOR_A_HASH))
    if how == "import":
        shutil.copytree(made_by_devpi("of the export", export=True), c.init_dir / "backup")
    c.start()
    if how == "import":
        c.wait_phase("failed")
        reason = c.status()["import"]["error"]["reason"]
        assert 0 == c.stop()
    else:
        assert c.wait_end() not in (0, 70)
        reason = c.log
    assert "argon2 can't run" in reason
    c.env = {}
    c.start().wait_ready()
    assert 200 == c.login("root", "of the export" if how == "import" else c.claim())
