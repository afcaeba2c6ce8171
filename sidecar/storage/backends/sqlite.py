"""The database of devpi's SQLite storages: its name, its validity, and its serial."""

from __future__ import annotations

import contextlib
from pathlib import Path

DATABASE = ".sqlite"
"""The database's name in a serverdir, with devpi's default storage."""
DATABASES = {"sqlite": DATABASE, "sqlite_db_files": ".sqlite_db"}
"""The same, by the value of devpi's --storage."""
_MAGIC = b"SQLite format 3\0"


class Unreadable(Exception):
    """SQLite can't read the database; the argument is the reason."""


def identity(database: Path) -> tuple[int, int]:
    """Device and inode of the file, which differ after a replacement. Raises OSError."""
    found = database.stat()
    return found.st_dev, found.st_ino


def is_database(path: Path) -> bool:
    """Whether the file begins like an SQLite database. Raises OSError."""
    # devpi-server is another process: closing this descriptor drops none of its POSIX locks
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def last_serial(database: Path) -> int:
    """The last serial that devpi has committed; -1: none. Raises `Unreadable`. Writes, as `roll_back`."""
    (serial,) = _read(database, "SELECT max(serial) FROM changelog")
    return -1 if serial is None else int(serial)


def roll_back(database: Path) -> None:
    """Roll back an interrupted commit, on which devpi's first connection, being read-only, fails. Raises `Unreadable`.

    Every connection that may write does so when it first reads.
    """
    _read(database, "SELECT count(*) FROM sqlite_master")


def _read(database: Path, query: str) -> tuple[int | None]:
    import sqlite3

    try:
        uri = f"{database.absolute().as_uri()}?mode=rw"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
            found: tuple[int | None] = connection.execute(query).fetchone()
    except sqlite3.Error as error:
        raise Unreadable(str(error)) from error
    return found
