"""devpi's storage as an import uses it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from devpi_server.config import get_pluginmanager, parseoptions
from devpi_server.normalized import normalize_name
from devpi_server.readonly import ensure_deeply_readonly, get_mutable_deepcopy
from py.path import local

from sidecar.worker.patches.staged_storage import (
    _Impatient,
    can_link,
    with_fast_copies,
    without_fsync,
    without_patience,
)

VALUE = {
    "name": normalize_name("A.b"),
    "+elinks": [{"hashes": {"sha256": "0" * 64}, "_log": [{"when": (2026, 11, 22), "count": 1}], "none": None}],
    "set": {"a", "b"},
    "numbers": [1, 2.5, True],
    "bytes": b"x",
}


@pytest.fixture
def fast_copies() -> Iterator[None]:
    """Make devpi's copies fast, only in this test."""
    devpis_own = {kind: get_mutable_deepcopy.dispatch(kind) for kind in (dict, list)}
    with_fast_copies()
    assert devpis_own != {kind: get_mutable_deepcopy.dispatch(kind) for kind in devpis_own}
    yield
    for kind, function in devpis_own.items():
        get_mutable_deepcopy.register(kind, function)


@pytest.mark.usefixtures("fast_copies")
@pytest.mark.parametrize("value", [VALUE, ensure_deeply_readonly(VALUE)], ids=["mutable", "read-only"])
def test_fast_copies_are_devpis_copies(value: Any) -> None:
    """They are as deep as devpi's, of the same types, and share nothing mutable with the original."""
    before = deepcopy(VALUE)
    made = get_mutable_deepcopy(value)
    assert before == made
    assert type(VALUE["name"]) is type(made["name"])
    assert tuple is type(made["+elinks"][0]["_log"][0]["when"])
    made["+elinks"][0]["hashes"]["sha256"] = "changed"
    made["+elinks"][0]["_log"].append("more")
    made["set"].add("c")
    made["numbers"].clear()
    assert before == VALUE


@pytest.mark.usefixtures("fast_copies")
def test_what_cannot_be_copied_is_refused() -> None:
    """As without the patch."""
    with pytest.raises(ValueError, match="object"):
        get_mutable_deepcopy({"a": [object()]})


@pytest.mark.parametrize("flag", ["sqlite", "sqlite_db_files"])
def test_connections_of_a_preparation(tmp_path: Path, flag: str) -> None:
    """They raise disk errors as OSError, and commit without fsync."""
    plugins = get_pluginmanager()
    without_patience(plugins)
    without_fsync(plugins)
    config = parseoptions(plugins, ["devpi-server", "--serverdir", str(tmp_path), "--storage", flag])
    config._determine_storage()
    storage = config.storage(local(str(tmp_path)), lambda _: None, 10)  # noqa: PTH124 - as devpi has it
    with closing(storage.get_connection(closing=False, write=True)) as connection:
        assert 0 == connection._sqlconn.execute("PRAGMA synchronous").fetchone()[0]
        assert type(connection._sqlconn) is _Impatient


def test_whether_there_are_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two folders of one file system; the check leaves no file behind."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    assert can_link(*folders)
    assert [[], []] == [list(folder.iterdir()) for folder in folders]

    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    assert not can_link(*folders)
    assert [[], []] == [list(folder.iterdir()) for folder in folders]
