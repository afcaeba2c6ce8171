"""The files that a replica could not fetch, in a form that `+status` can report.

devpi keeps a failed response's URL as an object that JSON can't express: after one failed file, each `+status` is 500
with a traceback. It also changes the dict while `+status` reads it.
"""

from __future__ import annotations

import threading
from typing import Any

from devpi_server import replica

from sidecar.devpi.protocol import UNREPLICATED


def report_them() -> None:
    """Make devpi use this class; call it before devpi-server starts."""
    replica.ReplicationErrors = Unreplicated  # type: ignore[misc] # devpi looks it up when it starts


class Unreplicated(replica.ReplicationErrors):
    """All failed files by path; `errors`, which `+status` reports, is a copy of the first ones."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._all: dict[str, dict[str, str]] = {}

    @property
    def errors(self) -> dict[str, dict[str, str]]:  # type: ignore[override] # devpi only reads it
        """Return the first `UNREPLICATED` of them, with strings only."""
        with self._guard:
            return {path: self._all[path] for path in sorted(self._all)[:UNREPLICATED]}

    def add(self, error: dict[str, Any]) -> None:
        """Add devpi's error: `relpath`, `message` and `url`."""
        with self._guard:
            self._all[error["relpath"]] = {name: str(value) for name, value in error.items()}

    def remove(self, entry: Any) -> None:  # noqa: ANN401 - devpi's FileEntry
        """Remove the entry's file, which has arrived or is no longer needed."""
        with self._guard:
            self._all.pop(entry.relpath, None)
