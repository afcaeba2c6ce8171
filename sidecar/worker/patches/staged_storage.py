"""Make devpi's storage fast in the staging folder, which needn't survive a crash: it is synced before the install."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devpi_server.keyfs_sqlite import BaseStorage

from sidecar.worker.patches import table
from sidecar.worker.patches.sqlite_storage import connect_by

if TYPE_CHECKING:
    from devpi_server.keyfs import KeyFS, Transaction
    from pluggy import PluginManager

PROJECTS_AT_ONCE = 50
"""Projects in one transaction. Each transaction costs a commit, and devpi rewrites the index' set of project names in
each one that adds a project, which makes its import quadratic."""

_ERRNO = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EIO,
}


def disk_error(error: BaseException) -> OSError | None:
    """Return SQLite's error for a full or failing disk as an OSError; None for any other error."""
    if not isinstance(error, sqlite3.OperationalError) or not hasattr(error, "sqlite_errorcode"):
        return None
    number = _ERRNO.get(error.sqlite_errorcode & 0xFF)
    return None if number is None else OSError(number, str(error))


class _Impatient(sqlite3.Connection):
    """A connection that raises OSError for a full or failing disk, which devpi doesn't mistake for a busy database."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:  # noqa: ANN401 - as sqlite3's own
        """Execute as sqlite3 does. Raises OSError if the disk is full or fails."""
        try:
            return super().execute(sql, *parameters)
        except sqlite3.OperationalError as error:
            if (as_os_error := disk_error(error)) is not None:
                raise as_os_error from error
            raise


class _ImpatientConnections(BaseStorage):
    def _get_sqlconn_uri_kw(self, uri: str) -> sqlite3.Connection:
        return sqlite3.connect(uri, timeout=60, isolation_level=None, uri=True, factory=_Impatient)


class _UnsyncedConnections(_ImpatientConnections):
    def _execute_conn_pragmas(self, sqlconn: sqlite3.Connection) -> None:
        sqlconn.execute("PRAGMA synchronous=OFF")


def without_patience(plugins: PluginManager) -> None:
    """Make devpi's SQLite storage fail at once in this process if the disk is full or fails.

    devpi treats every error at the start of a transaction as a busy database, and retries for 30 s.
    """
    connect_by(_ImpatientConnections, plugins)


def without_fsync(plugins: PluginManager) -> None:
    """Make devpi's SQLite storage in this process commit without fsync, from now on."""
    if table.holds("no_fsync"):
        connect_by(_UnsyncedConnections, plugins)


def can_link(source: Path, target: Path) -> bool:
    """Whether a file in the folder `source` can be hard-linked to the folder `target`. Leaves no file behind.

    CIFS without Unix extensions (Azure Files), vfat and some FUSE file systems refuse with EPERM, EOPNOTSUPP or
    EMLINK. Raises OSError if the file itself can't be created.
    """
    probe, link = source / ".link-probe", target / ".link-probe"
    probe.touch(mode=0o600)
    try:
        os.link(probe, link)
    except OSError:
        return False
    else:
        return True
    finally:
        for each in (probe, link):
            with suppress(OSError):
                each.unlink()


_ATOMS = frozenset({str, int, float, bool, bytes, type(None)})
"""Immutable types, which need no copy."""


def with_fast_copies() -> None:
    """Make devpi copy stored data in this process without looking up the type of every string.

    devpi copies a version's metadata about ten times for each file that it stores: a tenth of the importer's CPU time.
    """
    if not table.holds("copies"):
        return
    from devpi_server.readonly import get_mutable_deepcopy

    def of_dict(value: dict[Any, Any]) -> dict[Any, Any]:
        return {key: each if type(each) in _ATOMS else get_mutable_deepcopy(each) for key, each in value.items()}

    def of_list(value: list[Any]) -> list[Any]:
        return [each if type(each) in _ATOMS else get_mutable_deepcopy(each) for each in value]

    get_mutable_deepcopy.register(dict, of_dict)
    get_mutable_deepcopy.register(list, of_list)


class Batches:
    """Replaces a KeyFS' `write_transaction`, and commits once in `PROJECTS_AT_ONCE` uses."""

    def __init__(self, keyfs: KeyFS) -> None:
        self._keyfs = keyfs
        self._open = False
        self._depth = 0
        self._uses = 0
        self._holds = table.holds("batches")

    def begin(self) -> None:
        """Batch this KeyFS' write transactions, from now on."""
        if self._holds:
            self._keyfs.write_transaction = self.write_transaction  # type: ignore[method-assign]

    @contextmanager
    def write_transaction(self, *, allow_restart: bool = False) -> Iterator[Transaction]:
        """Open a transaction as KeyFS does, but commit later. An error rolls back the whole batch."""
        if not self._open:
            self._keyfs.begin_transaction_in_thread(write=True)
            self._open = True
        self._depth += 1
        try:
            yield self._keyfs.tx
        except BaseException:
            if self._open:
                self._open = False
                self._keyfs.rollback_transaction_in_thread()
            raise
        finally:
            self._depth -= 1
        if self._depth == 0:
            self._uses += 1
            if self._uses % PROJECTS_AT_ONCE == 0:
                self._commit()

    def end(self) -> None:
        """Commit the open batch, and restore devpi's transactions."""
        self._commit()
        if self._holds:
            del self._keyfs.write_transaction  # uncovers the method

    def _commit(self) -> None:
        if self._open:
            self._open = False
            self._keyfs.commit_transaction_in_thread()
