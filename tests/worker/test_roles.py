"""`sidecar.worker.roles`: the role from flags and `.nodeinfo`, compared with devpi-server's own decision."""

from __future__ import annotations

import itertools
import json
import warnings
from argparse import Namespace
from pathlib import Path

import pytest
from devpi_server.config import Config, get_pluginmanager
from devpi_server.main import Fatal

from sidecar.worker.roles import Role, role_of

URL = "http://primary.example:3141"
OTHER = "http://other.example:3141"
ROLES = ("auto", "primary", "master", "replica", "standalone")
RECORDED = (None, "standalone", "master", "primary", "replica")


def args(role: str = "auto", url: str | None = None) -> Namespace:
    """Return the result of devpi's parser for these flags."""
    return Namespace(role=role, primary_url=url, deprecated_master_url=None)


def state(serverdir: Path, **info: object) -> Path:
    """Create a serverdir with this `.nodeinfo`."""
    serverdir.mkdir(parents=True, exist_ok=True)
    (serverdir / ".nodeinfo").write_text(json.dumps(info))
    return serverdir


def by_devpi(args: Namespace, serverdir: Path) -> str | None:
    """Return the role that devpi-server takes; None if it refuses."""
    config = Config(Namespace(**vars(args), serverdir=str(serverdir)), get_pluginmanager(load_entrypoints=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            config._determine_role()
        except (Fatal, AssertionError):
            return None
        return str(config.role)


@pytest.mark.parametrize(
    ("asked", "url", "recorded", "recorded_url"),
    list(itertools.product(ROLES, (None, URL), RECORDED, (None, OTHER))),
)
def test_devpi_agrees(
    tmp_path: Path, asked: str, url: str | None, recorded: str | None, recorded_url: str | None
) -> None:
    """What devpi-server refuses is a contradiction, with a hint; otherwise both find the same role.

    Two exceptions: a URL with a role other than replica, which devpi ignores or keeps; and a primary's URL in the
    record of another role, which devpi never writes.
    """
    if recorded is None or (recorded_url is not None and recorded != "replica"):
        recorded_url = None
    info = {"role": recorded, "masterurl": recorded_url}
    state(tmp_path, **{name: value for name, value in info.items() if value is not None})
    given = args(asked, url)
    found = role_of(given, tmp_path)
    taken = by_devpi(given, tmp_path)
    if url is not None and asked not in ("auto", "replica"):
        taken = None

    contradiction = found.contradiction()
    assert (contradiction is None) == (taken is not None), (contradiction, taken)
    if contradiction is None:
        assert found.replica == (taken == "replica")
    else:
        assert contradiction.hint


@pytest.mark.parametrize("url", ["devpi:3141", "devpi", "ftp://devpi", "http://", "http://[::1", "http://devpi:port"])
def test_a_url_that_is_none(tmp_path: Path, url: str) -> None:
    """A replica would try to reach its primary forever."""
    contradiction = role_of(args(url=url), tmp_path).contradiction()
    assert contradiction is not None
    assert "--primary-url is not a URL" in contradiction.reason


def test_a_password_in_the_url_is_not_repeated(tmp_path: Path) -> None:
    """devpi refuses it; the log must not contain it."""
    contradiction = role_of(args(url="http://user:s3cret@devpi:3141"), tmp_path).contradiction()
    assert contradiction is not None
    assert "a user or a password" in contradiction.reason
    assert "s3cret" not in " ".join(contradiction)


def test_a_state_that_is_being_installed_counts(tmp_path: Path) -> None:
    """Its .nodeinfo is moved last: until then it is in the staging area."""
    own = tmp_path / ".sidecar"
    state(own / "staging/state", role="standalone")
    assert role_of(args(), tmp_path) == Role("auto", None, None, None), "not installed: it will be thrown away"
    (own / "promotion.json").write_text("{}")
    assert role_of(args(), tmp_path).recorded == "standalone"
    state(tmp_path, role="replica", masterurl=URL)
    (own / "staging/state/.nodeinfo").unlink()
    assert role_of(args(), tmp_path) == Role("auto", None, "replica", URL)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"role": 1, "masterurl": []}', "x" * 100_000])
def test_a_record_that_cannot_be_read_contradicts_nothing(tmp_path: Path, content: str) -> None:
    """It is reported as damaged once the serverdir is locked, with another exit code."""
    (tmp_path / ".nodeinfo").write_text(content)
    found = role_of(args(url=URL), tmp_path)
    assert found == Role("auto", URL, None, None)
    assert found.contradiction() is None
