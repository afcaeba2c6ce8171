"""`write`: the serverdir's volume is writable, and the database was not replaced."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from sidecar.core.check import FAIL, PASS, Verdict
from sidecar.core.disk_hints import hint_to_write, words
from sidecar.storage import layout
from sidecar.storage.backends import sqlite

_CONTENT = bytes(4096)  # a block: a few bytes may fit into an inode although the volume is full


@dataclass(frozen=True, slots=True)
class WriteCheck:
    """A serverdir and its database's identity at the start. Blocks as long as the volume does."""

    serverdir: Path
    database: tuple[int, int] | None
    """Device and inode; None: another storage."""

    @classmethod
    def of(cls, serverdir: Path) -> WriteCheck:
        """The serverdir as it is now."""
        with contextlib.suppress(OSError):
            return cls(serverdir, sqlite.identity(serverdir / sqlite.DATABASE))
        return cls(serverdir, None)

    def look(self) -> Verdict:
        """Write and remove a small file; check the database."""
        try:
            _write(self.serverdir)
        except OSError as error:
            return _failure("can't write to the serverdir", error)
        return Verdict(PASS) if self.database is None else self._look_at_database()

    def _look_at_database(self) -> Verdict:
        path = self.serverdir / sqlite.DATABASE
        try:
            if sqlite.identity(path) != self.database:
                raise FileNotFoundError
            sound = sqlite.is_database(path)
        except FileNotFoundError:
            return Verdict(
                FAIL,
                "the database was removed or replaced while devpi-server runs",
                hint="stop, restore the right database, and start again; uploads since then are lost",
            )
        except OSError as error:
            return _failure("can't read the database", error)
        if not sound:
            return Verdict(FAIL, "the database file is no longer an SQLite database", hint="stop, and restore a backup")
        return Verdict(PASS)


def _write(serverdir: Path) -> None:
    name = layout.WRITE_CHECK
    folder = os.open(serverdir / layout.OWN, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with contextlib.suppress(FileNotFoundError):  # left by a killed probe
            os.unlink(name, dir_fd=folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        file = os.open(name, flags, 0o600, dir_fd=folder)
        try:
            os.write(file, _CONTENT)
        finally:
            try:
                os.close(file)  # NFS reports a full disk here
            finally:
                os.unlink(name, dir_fd=folder)
    finally:
        os.close(folder)


def _failure(what: str, error: OSError) -> Verdict:
    return Verdict(FAIL, f"{what}: {words(error)}", hint=hint_to_write(error))
