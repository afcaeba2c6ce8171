"""A replica's files that it could not get, in a form that `+status` can report.

devpi keeps the URL of a failed answer as an object, which is no JSON: with one failed file each `+status` is 500 and a
traceback. It also changes the dict while `+status` is made of it.
"""

from __future__ import annotations

import threading
from typing import Any

from devpi_server import replica

from sidecar.devpi.protocol import UNREPLICATED


def report_them() -> None:
    """From now on, have devpi keep them so; before devpi-server starts."""
    replica.ReplicationErrors = Unreplicated  # type: ignore[misc] # devpi looks it up when it starts


class Unreplicated(replica.ReplicationErrors):
    """All of them by path; `errors`, which `+status` reports, is a copy of the first ones."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._all: dict[str, dict[str, str]] = {}

    @property
    def errors(self) -> dict[str, dict[str, str]]:  # type: ignore[override] # devpi only reads it
        """The first `UNREPLICATED`, as JSON can have them."""
        with self._guard:
            return {path: self._all[path] for path in sorted(self._all)[:UNREPLICATED]}

    def add(self, error: dict[str, Any]) -> None:
        """As devpi says it: `relpath`, `message` and `url`."""
        with self._guard:
            self._all[error["relpath"]] = {name: str(value) for name, value in error.items()}

    def remove(self, entry: Any) -> None:  # noqa: ANN401 - devpi's FileEntry
        """The file of this entry is here, or is needed no more."""
        with self._guard:
            self._all.pop(entry.relpath, None)
