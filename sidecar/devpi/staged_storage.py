"""devpi's storage, made fast where nothing need survive a crash: in staging, which is synced whole before promotion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite3 import Connection

    from devpi_server.keyfs import KeyFS, Transaction

PROJECTS_AT_ONCE = 50
"""Projects in one transaction. devpi rewrites the set of an index' project names in every transaction that adds one,
which makes its import quadratic; and every transaction costs a commit."""


def without_fsync() -> None:
    """Have devpi's SQLite storage not wait for the disk, in this process, from now on."""
    from devpi_server.keyfs_sqlite import BaseStorage

    def pragmas(_storage: BaseStorage, connection: Connection) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    BaseStorage._execute_conn_pragmas = pragmas  # type: ignore[method-assign]


class Batches:
    """Stands in for a KeyFS' `write_transaction`, and commits once in `PROJECTS_AT_ONCE` uses."""

    def __init__(self, keyfs: KeyFS) -> None:
        self._keyfs = keyfs
        self._open = False
        self._depth = 0
        self._uses = 0

    def begin(self) -> None:
        """From now on, transactions of this KeyFS are batched."""
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
        del self._keyfs.write_transaction  # uncovers the method

    def _commit(self) -> None:
        if self._open:
            self._open = False
            self._keyfs.commit_transaction_in_thread()
