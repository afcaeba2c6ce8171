"""A commit of devpi-server that a kill interrupts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_KILLED = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size=2")
connection.execute("BEGIN")
for serial in range(100_000, 100_300):
    connection.execute("INSERT INTO changelog (serial, data) VALUES (?, ?)", (serial, os.urandom(4000)))
os._exit(9)
"""


def interrupt_commit(database: Path) -> None:
    """Leave half of a commit in the database, and the journal from which SQLite rolls it back."""
    done = subprocess.run([sys.executable, "-c", _KILLED, str(database)], timeout=60, check=False)
    assert done.returncode == 9
    assert database.with_name(f"{database.name}-journal").stat().st_size > 0
