"""Make acknowledged writes survive a power cut, and roll back failed commits.

devpi writes an upload's file without fsync, and SQLite commits by removing its journal without syncing the folder. So
for about 30 s a power cut can lose an acknowledged upload, or leave an empty file in its place.

A commit that fails on a full disk can leave its journal behind. No reader can connect until a writer rolls it back, and
a client that can't log in never writes.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections import OrderedDict
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from devpi_server.filestore_fs import DirtyFile, FSFactory
from devpi_server.filestore_hash_hl import HashHLFactory
from devpi_server.keyfs_sqlite import BaseStorage

from sidecar.core import files
from sidecar.worker.patches.sqlite_storage import connect_by

if TYPE_CHECKING:
    from devpi_server.interfaces import ContentOrFile
    from devpi_server.keyfs_types import FilePathInfo
    from pluggy import PluginManager

_REMEMBERED = 10_000
"""Maximum of remembered folders; the least recently used one is forgotten, and synced again at its next use."""


class SyncedFolders:
    """The folders whose names this process has synced.

    An existing folder may not be synced yet: another thread, or a killed server, may just have created it.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[Path, None] = OrderedDict()
        self._lock = threading.Lock()

    def sync(self, folder: Path, top: Path) -> None:
        """Sync the names in `folder`, and those of its parents up to the folder `top`. Raises OSError."""
        files.fsync_dir(folder)
        new = []
        while folder != top and not self._is_known(folder):
            new.append(folder)
            folder = folder.parent
            files.fsync_dir(folder)
        with self._lock:
            self._known.update(dict.fromkeys(reversed(new)))
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def _is_known(self, folder: Path) -> bool:
        with self._lock:
            if folder not in self._known:
                return False
            self._known.move_to_end(folder)
            return True


def sync_what_is_acknowledged(plugins: PluginManager) -> None:
    """Make devpi sync each new file, its folders, and each commit, from now on."""
    connect_by(DurableConnections, plugins)
    folders = SyncedFolders()
    for factory in (FSFactory, HashHLFactory):
        _sync_new_files(factory, folders)


class DurableConnections(BaseStorage):
    """Connections with durable commits, and a rollback of failed ones."""

    def _get_sqlconn_uri_kw(self, uri: str) -> sqlite3.Connection:
        if uri.endswith("?mode=ro"):  # as most requests, each of which has its own connection
            if _left_journals:
                _roll_back(self, uri)
            reading: sqlite3.Connection = super()._get_sqlconn_uri_kw(uri)
            return reading
        writing = sqlite3.connect(uri, timeout=60, isolation_level=None, uri=True, factory=_Writing)
        writing.journal = _journal(self)
        writing.execute("PRAGMA synchronous=EXTRA")
        return writing


_left_journals: set[str] = set()
"""Paths of journals that a closed connection left behind."""


class _Writing(sqlite3.Connection):
    """A connection that records the journal that it leaves: on a full disk the rollback may fail, too."""

    journal = ""

    def close(self) -> None:
        super().close()
        if os.path.lexists(self.journal):
            _left_journals.add(self.journal)


def _roll_back(storage: BaseStorage, uri: str) -> None:
    """Roll back the left journal, because a read-only connection by `uri` fails while it exists.

    If this fails on a full disk, the next reader retries. The journal of an active writer is kept.
    """
    writing = uri.replace("?mode=ro", "?mode=rw")  # doesn't create a missing database
    with suppress(sqlite3.Error), closing(sqlite3.connect(writing, timeout=5, uri=True)) as connection:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        _left_journals.discard(_journal(storage))


def _journal(storage: BaseStorage) -> str:
    return f"{storage.sqlpath}-journal"


def _temporary(path: Path) -> Path:
    """Return the temporary file of this thread for `path`, as devpi_server.filestore_fs names it."""
    key = f"{path}{os.getpid()}{threading.current_thread().ident}"
    return path.with_name(f"{path.name}-{hashlib.sha256(key.encode()).hexdigest()}-tmp")


def _sync_new_files(factory: type[FSFactory | HashHLFactory], folders: SyncedFolders) -> None:
    make = factory.from_content

    def from_content(basedir: Path, file_path_info: FilePathInfo, content_or_file: ContentOrFile) -> DirtyFile:
        try:
            file = cast(DirtyFile, make(basedir, file_path_info, content_or_file))
            descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            folders.sync(file.path.parent, Path(basedir))
        except BaseException:  # devpi has no object for the file yet, so it would never remove it
            with suppress(OSError):
                _temporary(Path(basedir) / "+files" / file_path_info.relpath).unlink()
            raise
        return file

    factory.from_content = staticmethod(from_content)  # type: ignore[method-assign, assignment]
