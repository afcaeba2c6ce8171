"""Makes devpi-server's acknowledgements last: what it answered 200 to is still there after a power cut.

devpi writes an upload's file without fsync, and SQLite commits by removing its journal without syncing the folder. So
for half a minute the power may take an acknowledged upload back, or leave an empty file in its place.

And what is not acknowledged is taken back once that can be done: a commit that a full disk refused would else keep
every reader out until somebody writes, and nobody writes who can't log in.
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
"""Folders; beyond, the one that was used least recently is synced again when it is used."""


class SyncedFolders:
    """The folders whose names this process has brought to disk. That one exists says nothing.

    Another thread, or a server that was killed, may have made it just before, without fsync.
    """

    def __init__(self, most: int = _REMEMBERED) -> None:
        self._most = most
        self._known: OrderedDict[Path, None] = OrderedDict()
        self._lock = threading.Lock()

    def sync(self, folder: Path, top: Path) -> None:
        """Make all names in `folder` durable, and its own, up to the folder `top`. Raises OSError."""
        files.fsync_dir(folder)
        new = []
        while folder != top and not self._is_known(folder):
            new.append(folder)
            folder = folder.parent
            files.fsync_dir(folder)
        with self._lock:
            self._known.update(dict.fromkeys(reversed(new)))
            while len(self._known) > self._most:
                self._known.popitem(last=False)

    def _is_known(self, folder: Path) -> bool:
        with self._lock:
            if folder not in self._known:
                return False
            self._known.move_to_end(folder)
            return True


def sync_what_is_acknowledged(plugins: PluginManager) -> None:
    """Have devpi sync each new file and its folders before the commit, and the commit itself, from now on."""
    connect_by(DurableConnections, plugins)
    folders = SyncedFolders()
    for factory in (FSFactory, HashHLFactory):
        _sync_new_files(factory, folders)


class DurableConnections(BaseStorage):
    """Connections whose commits last, and are taken back where they failed."""

    def _get_sqlconn_uri_kw(self, uri: str) -> sqlite3.Connection:
        if uri.endswith("?mode=ro"):  # each request has a connection of its own, mostly to read
            if _left:
                _take_back(self, uri)
            reading: sqlite3.Connection = super()._get_sqlconn_uri_kw(uri)
            return reading
        writing = sqlite3.connect(uri, timeout=60, isolation_level=None, uri=True, factory=_Writing)
        writing.journal = _journal(self)
        writing.execute("PRAGMA synchronous=EXTRA")
        return writing


_left: set[str] = set()
"""Journals that were there when their writer had ended."""


class _Writing(sqlite3.Connection):
    """A connection that tells of a journal which it leaves: a full disk may have refused the rollback as well."""

    journal = ""

    def close(self) -> None:
        super().close()
        if os.path.lexists(self.journal):
            _left.add(self.journal)


def _take_back(storage: BaseStorage, uri: str) -> None:
    """Roll back what is in the journal that was left. Who only reads, by `uri`, can't, and fails while it is there.

    Without room this fails, too, and the next one tries again. A writer's own journal, who is at work, stays.
    """
    writing = uri.replace("?mode=ro", "?mode=rw")  # which makes no new database where somebody has deleted it
    with suppress(sqlite3.Error), closing(sqlite3.connect(writing, timeout=5, uri=True)) as connection:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        _left.discard(_journal(storage))


def _journal(storage: BaseStorage) -> str:
    return f"{storage.sqlpath}-journal"


def _half_made(path: Path) -> Path:
    """Where this thread writes what shall be `path`, as devpi_server.filestore_fs has it."""
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
        except BaseException:  # devpi knows nothing of this file yet, so would leave it for good
            with suppress(OSError):
                _half_made(Path(basedir) / "+files" / file_path_info.relpath).unlink()
            raise
        return file

    factory.from_content = staticmethod(from_content)  # type: ignore[method-assign, assignment]
