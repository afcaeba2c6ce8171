"""Acknowledged uploads are on disk: the file, and the names of its folders."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from devpi_server import keyfs_sqlite_fs
from devpi_server.config import get_parser, get_pluginmanager, hookimpl, parseoptions
from devpi_server.filestore_fs import FSFactory
from devpi_server.filestore_hash_hl import HashHLFactory
from devpi_server.keyfs_sqlite import BaseStorage
from devpi_server.keyfs_types import FilePathInfo, RelPath
from pluggy import PluginManager
from py.path import local

from sidecar.core import files
from sidecar.worker.patches.storage import DurableConnections, SyncedFolders, sync_what_is_acknowledged

PATIENCE = 60.0
"""Seconds after which a wait fails."""


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Record every synced file and folder, in order."""
    synced: list[Path] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(os, "fsync", note)
    return synced


@pytest.fixture
def durably() -> Iterator[PluginManager]:
    """Make devpi sync what it acknowledges, only in this test."""
    own = FSFactory.from_content, HashHLFactory.from_content
    plugins = get_pluginmanager()
    sync_what_is_acknowledged(plugins)
    yield plugins
    FSFactory.from_content, HashHLFactory.from_content = own  # type: ignore[method-assign]


@pytest.fixture
def storage(durably: PluginManager, tmp_path: Path) -> BaseStorage:
    """Return the storage that devpi finds, with an empty database."""
    config = parseoptions(durably, ["devpi-server", "--serverdir", str(tmp_path)])
    config._determine_storage()
    storage: type[BaseStorage] = config.storage
    return storage(local(str(tmp_path)), lambda _: None, 10)  # noqa: PTH124 - as devpi has it


@pytest.mark.parametrize(("write", "level"), [(True, 3), (False, 2)])
def test_who_commits_syncs_the_folder_too(storage: BaseStorage, write: bool, level: int) -> None:
    """A writing connection has SQLite's EXTRA; a reading one keeps the default."""
    with storage.get_connection(write=write) as connection:
        assert (level,) == connection._sqlconn.execute("PRAGMA synchronous").fetchone()


def test_what_a_failed_commit_left_is_taken_back(storage: BaseStorage, tmp_path: Path) -> None:
    """A reader rolls back the journal that a writer left, and sees the state before the write."""
    database = tmp_path / ".sqlite"
    with storage.get_connection(write=True) as writing:
        writing._sqlconn.execute("PRAGMA cache_size=1")  # writes into the database before the commit
        writing._sqlconn.execute("CREATE TABLE half_made AS SELECT zeroblob(1000000) AS content")
        journal, half = (tmp_path / ".sqlite-journal").read_bytes(), database.read_bytes()
    assert not os.path.lexists(tmp_path / ".sqlite-journal"), "SQLite has rolled it back itself"
    (tmp_path / ".sqlite-journal").write_bytes(journal)
    database.write_bytes(half)
    with storage.get_connection() as reading, pytest.raises(sqlite3.OperationalError, match="readonly database"):
        reading._sqlconn.execute("SELECT name FROM sqlite_master").fetchall()
    with storage.get_connection(write=True):  # as on a full disk
        (tmp_path / ".sqlite-journal").write_bytes(journal)
        database.write_bytes(half)
    with storage.get_connection() as reading:
        names = reading._sqlconn.execute("SELECT name FROM sqlite_master").fetchall()
    assert ("changelog",) in names
    assert ("half_made",) not in names


@pytest.mark.usefixtures("durably")
@pytest.mark.parametrize("factory", [FSFactory, HashHLFactory])
def test_a_new_file_and_all_its_folders(
    factory: type[FSFactory | HashHLFactory], tmp_path: Path, synced: list[Path]
) -> None:
    """In both of devpi's file stores; also folders that something else has created, perhaps without fsync."""
    relpath = RelPath("alice/dev/+f/abc/p-1.0.tar.gz")
    folders = [tmp_path, *(tmp_path / "+files" / each for each in ("", "alice", "alice/dev", "alice/dev/+f"))]
    folders.append(folders[-1] / "abc")
    folders[-1].mkdir(parents=True)
    info = FilePathInfo(relpath, hashlib.sha256(b"content").hexdigest())
    file = factory.from_content(tmp_path, info, b"content")
    assert file.path.read_bytes() == b"content"  # type: ignore[attr-defined]
    assert [file.path, *reversed(folders)] == synced  # type: ignore[attr-defined]
    synced.clear()
    info = FilePathInfo(RelPath("alice/dev/+f/abd/p-1.0.tar.gz"), info.hash_digest)
    file = factory.from_content(tmp_path, info, b"content")
    new = folders[-2] / "abd"
    assert [file.path, new, folders[-2]] == synced  # type: ignore[attr-defined]


def test_the_folder_itself_always(tmp_path: Path, synced: list[Path]) -> None:
    """It gets a new name each time; its parents are synced once."""
    folders = SyncedFolders()
    (folder := tmp_path / "a" / "b").mkdir(parents=True)
    folders.sync(folder, tmp_path)
    folders.sync(folder, tmp_path)
    folders.sync(tmp_path, tmp_path)
    assert [folder, folder.parent, tmp_path, folder, tmp_path] == synced


def test_only_so_many_are_remembered(tmp_path: Path, synced: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recently used folder is forgotten and synced again; using a folder uses its parents."""
    monkeypatch.setattr("sidecar.worker.patches.storage._REMEMBERED", 3)
    folders = SyncedFolders()
    numbered = [tmp_path / "above" / str(number) for number in range(3)]
    for folder in numbered:
        folder.mkdir(parents=True)
        folders.sync(folder, tmp_path)
    synced.clear()
    folders.sync(numbered[0], tmp_path)
    assert [numbered[0], numbered[0].parent] == synced
    synced.clear()
    folders.sync(numbered[2], tmp_path)
    assert [numbered[2]] == synced


def test_a_folder_that_another_thread_is_syncing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It isn't remembered before it is synced: no upload is acknowledged by a sync that may still fail."""
    folders = SyncedFolders()
    (folder := tmp_path / "a" / "b").mkdir(parents=True)
    reached, go_on = threading.Event(), threading.Event()
    synced: list[tuple[int, Path]] = []
    first = threading.Thread(target=lambda: folders.sync(folder, tmp_path))

    def fsync_dir(path: Path) -> None:
        if path == tmp_path and threading.current_thread() is first:
            reached.set()
            assert go_on.wait(PATIENCE)
            raise OSError(5, "Input/output error")
        synced.append((threading.get_ident(), path))

    monkeypatch.setattr(files, "fsync_dir", fsync_dir)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    first.start()
    assert reached.wait(PATIENCE)
    folders.sync(folder, tmp_path)
    assert [folder, folder.parent, tmp_path] == [path for who, path in synced if who == threading.get_ident()]
    go_on.set()
    first.join()


class Elsewhere:
    """A devpi plugin with its own SQLite storage, of devpi's class."""

    @hookimpl
    def devpiserver_storage_backend(self, settings: dict[str, str] | None) -> dict[str, object]:
        return dict(keyfs_sqlite_fs.devpiserver_storage_backend(settings), name="elsewhere")


@pytest.mark.parametrize("flag", ["sqlite", "sqlite:fsbackend=hash_hl", "sqlite_db_files", "elsewhere"])
def test_devpi_finds_it_under_its_own_name(durably: PluginManager, tmp_path: Path, flag: str) -> None:
    """Everything else is unchanged: the settings, the place of the files, and the help."""
    argv = ["devpi-server", "--serverdir", str(tmp_path), "--storage", flag]
    plain = get_pluginmanager()
    for plugins in (durably, plain):
        plugins.register(Elsewhere())
    ours, devpis = parseoptions(durably, argv), parseoptions(plain, argv)
    for config in (ours, devpis):
        config._determine_storage()
    assert devpis.storage_info == ours.storage_info
    mine, theirs = ours._storage_info(), devpis._storage_info()
    found, devpis_own = mine.pop("storage"), theirs.pop("storage")
    assert issubclass(found, DurableConnections)
    assert issubclass(found, devpis_own)
    assert theirs == mine
    assert get_parser(plain).format_help() == get_parser(durably).format_help()
