"""Requests that wait for one check together: the password at its end counts, not the one before."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from testbed.plugins import installed_plugin
from tests.support.container import Container, call_devpi, login, login_token, wait_for

_HOLDS_UP = """
import pathlib, time
from sidecar.worker.patches import hashing
matches = hashing.matches
HERE = pathlib.Path(__file__).parent

def hold_up(password, pwhash, pwsalt):
    found = matches(password, pwhash, pwsalt)
    if password == "held up":
        with (HERE / "runs").open("a") as runs:
            runs.write("x")
        while not (HERE / "go").exists():
            time.sleep(0.01)
    return found

hashing.matches = hold_up
"""
"""A plugin: argon2's result for one password is returned only when the test allows it."""
WAITING = 8


def who(devpi: str, user: str, password: str) -> object:
    """Return the user that devpi-server sees: `+api`, with user and password in the header."""
    value = base64.b64encode(f"{user}:{password}".encode()).decode()
    call = urllib.request.Request(f"{devpi}/+api", headers={"Authorization": f"Basic {value}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(call, timeout=60) as answer:
        status = json.load(answer)["result"]["authstatus"]
    return status[1] if status[0] == "ok" else None


def in_flight(c: Container) -> int:
    """Return the requests that devpi-server is answering, by the sidecar's metrics."""
    name = "devpi_server_http_requests_in_flight{"
    lines = c.get("/metrics").body.decode().splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith(name))


@pytest.mark.parametrize("change", [None, "changed", "deleted", "deleted and made anew", "rotated"])
def test_the_password_changes_during_a_shared_check(
    container: Callable[..., Container], tmp_path: Path, change: str | None
) -> None:
    """It is one check; after a change, no waiting request is accepted by it, nor by its cache."""
    here = tmp_path / "plugin"
    name, of_root = ("root", "held up") if change == "rotated" else ("alice", "of root")
    c = container(env=installed_plugin(here, "holds_up", _HOLDS_UP) | {"DEVPI_PASSWORD": of_root}).start()
    c.wait_ready()
    alice, new, root = f"{c.devpi}/alice", "new", ""
    if name == "alice":
        root = login_token(c.devpi, of_root)
        assert call_devpi(alice, "PUT", {"password": "held up"}, token=root).status == 201

    with ThreadPoolExecutor(WAITING) as pool:
        try:
            asked = [pool.submit(who, c.devpi, name, "held up") for _ in range(WAITING - 1)]
            logs_in = pool.submit(login, c.devpi, name, "held up")
            wait_for((here / "runs").exists, "the check")
            wait_for(lambda: in_flight(c) >= WAITING, "all who wait")
            if change == "changed":
                assert call_devpi(alice, "PATCH", {"password": new}, token=root).status == 200
            elif change == "rotated":
                new = c.post("/bootstrap/rotate").json["password"]
            elif change:
                assert call_devpi(alice, "DELETE", token=root).status == 200
            if change == "deleted and made anew":
                assert call_devpi(alice, "PUT", {"password": new}, token=root).status == 201
        finally:
            (here / "go").touch()
        let_in = {each.result() for each in asked}
        status, _ = logs_in.result()

    assert "x" == (here / "runs").read_text(), "they shared one run"
    assert (({None}, 401) if change else ({name}, 200)) == (let_in, status)
    assert who(c.devpi, name, "held up") == (None if change else name)
    if change not in (None, "deleted"):
        assert name == who(c.devpi, name, new)
