"""devpi's storage, made fast where nothing need survive a crash: in staging, which is synced before it is installed."""

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
"""Projects in one transaction. devpi rewrites the set of an index' project names in every transaction that adds one,
which makes its import quadratic; and every transaction costs a commit."""

_OF_THE_DISK = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EIO,
}


def disk_error(error: BaseException) -> OSError | None:
    """What SQLite's error for a disk that is full or fails would be as the system's own; None for any other error."""
    if not isinstance(error, sqlite3.OperationalError) or not hasattr(error, "sqlite_errorcode"):
        return None
    number = _OF_THE_DISK.get(error.sqlite_errorcode & 0xFF)
    return None if number is None else OSError(number, str(error))


class _Impatient(sqlite3.Connection):
    """A connection whose errors of the disk aren't taken for a busy database."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:  # noqa: ANN401 - as sqlite3's own
        """As sqlite3's own. Raises OSError where the disk is full or fails."""
        try:
            return super().execute(sql, *parameters)
        except sqlite3.OperationalError as error:
            if (of_the_disk := disk_error(error)) is not None:
                raise of_the_disk from error
            raise


class _ImpatientConnections(BaseStorage):
    def _get_sqlconn_uri_kw(self, uri: str) -> sqlite3.Connection:
        return sqlite3.connect(uri, timeout=60, isolation_level=None, uri=True, factory=_Impatient)


class _UnsyncedConnections(_ImpatientConnections):
    def _execute_conn_pragmas(self, sqlconn: sqlite3.Connection) -> None:
        sqlconn.execute("PRAGMA synchronous=OFF")


def without_patience(plugins: PluginManager) -> None:
    """Have devpi's SQLite storage give up at once, in this process, where the disk is full or fails.

    devpi takes every error at the begin of a transaction for a lock that somebody holds, and tries again for 30 s.
    """
    connect_by(_ImpatientConnections, plugins)


def without_fsync(plugins: PluginManager) -> None:
    """Have devpi's SQLite storage not wait for the disk, in this process, from now on."""
    if table.holds("no_fsync"):
        connect_by(_UnsyncedConnections, plugins)


def can_link(source: Path, target: Path) -> bool:
    """Whether a file in the folder `source` can have a second name in the folder `target`; leaves nothing behind.

    CIFS without Unix extensions (Azure Files), vfat and some FUSE file systems refuse, with EPERM, EOPNOTSUPP or
    EMLINK. Raises OSError where not even the file can be made.
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
"""Types whose values are their own copies."""


def with_fast_copies() -> None:
    """Have devpi copy what it stores, in this process, without looking up every single string's type.

    devpi copies a version's metadata some ten times while it stores a file of it: a tenth of the importer's CPU.
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
    """Stands in for a KeyFS' `write_transaction`, and commits once in `PROJECTS_AT_ONCE` uses."""

    def __init__(self, keyfs: KeyFS) -> None:
        self._keyfs = keyfs
        self._open = False
        self._depth = 0
        self._uses = 0
        self._holds = table.holds("batches")

    def begin(self) -> None:
        """From now on, transactions of this KeyFS are batched."""
        if self._holds:
            self._keyfs.write_transaction = self.write_transaction  # type: ignore[method-assign]

    @contextmanager
    def write_transaction(self, *, allow_restart: bool = False) -> Iterator[Transaction]:
        """As KeyFS' own, but the commit comes later. An error rolls the whole batch back."""
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
        """Commit what is open; transactions are devpi's own again."""
        self._commit()
        if self._holds:
            del self._keyfs.write_transaction  # uncovers the method

    def _commit(self) -> None:
        if self._open:
            self._open = False
            self._keyfs.commit_transaction_in_thread()
