"""How many users, indexes and projects a devpi-server has: counted in slices, after each change.

A slice reads devpi's database for `_SLICE` seconds. It bypasses devpi's caches, which would otherwise evict what
clients need. Memory holds the names of the users and two commits: one with a user, one with an index's projects.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from devpi_server.fileutil import loads
from devpi_server.log import threadlog

from sidecar.devpi.protocol import ContentsSeen, Message

if TYPE_CHECKING:
    from devpi_server.keyfs import KeyFS
    from devpi_server.keyfs_types import TypedKey
    from devpi_server.main import XOM

_SLICE = 0.02
"""Seconds of one slice; it finishes the index that it has begun (0.1 s with 100,000 projects)."""
_PAUSE = 5.0
"""Least seconds between two counts."""
_SHARE = 0.02
"""The share of a core that counting may use on average; the pause after a count depends on it."""
_FAILURES = 3
"""Failed counts in a row after which the last result is no longer valid."""
_NOTHING = ContentsSeen(None, None, None, None)


class ContentsWatch:
    """Counts what one devpi-server holds, and reports changes. For use in one thread."""

    def __init__(self, xom: XOM, send: Callable[[Message], None]) -> None:
        self._keyfs: Any = xom.keyfs  # devpi's type annotations are wrong
        self._send = send
        self._reported = _NOTHING
        self._serial = -2  # when the last complete count began
        self._count: _Count | None = None
        self._due = 0.0
        self._failures = 0

    def look(self) -> None:
        """Count for one slice. Raises SidecarGone; errors of devpi's database are logged."""
        if time.monotonic() < self._due:
            return
        try:
            done = self._count_on()
        except Exception:
            self._fail()
            return
        if done is None:
            return
        self._failures = 0
        self._report(done)

    def _count_on(self) -> ContentsSeen | None:
        """Return the result if this slice completes a count."""
        with self._keyfs.get_connection() as connection:
            if self._count is None:
                serial = int(connection.db_read_last_changelog_serial())
                if serial == self._serial:
                    return None
                self._count = _Count(self._keyfs, serial)
            count = self._count
            count.connection = connection
            begun = time.monotonic()
            try:
                for _ in count.steps:
                    if time.monotonic() - begun >= _SLICE:
                        return None
            finally:
                count.seconds += time.monotonic() - begun
        self._count, self._serial = None, count.serial
        self._due = time.monotonic() + max(_PAUSE, count.seconds / _SHARE)
        found = count.found
        return ContentsSeen(found["users"], found["stages"], found["mirrors"], found["projects"])

    def _fail(self) -> None:
        self._failures += 1
        if self._failures == 1:
            threadlog.exception("users, indexes and projects can't be counted")
        self._count, self._serial = None, -2
        self._due = time.monotonic() + _PAUSE
        if self._failures >= _FAILURES:
            self._report(_NOTHING)

    def _report(self, seen: ContentsSeen) -> None:
        if seen != self._reported:
            self._send(seen)
            self._reported = seen


class _Count:
    """One count, step by step; each slice has its own database connection."""

    def __init__(self, keyfs: KeyFS, serial: int) -> None:
        self.serial = serial
        self._keyfs: Any = keyfs
        self.connection: Any = None
        self.seconds = 0.0
        self.found: Counter[str] = Counter()
        self._commits: dict[str, tuple[int, Any]] = {}
        """The last commit read for each kind of key: its serial and its changes."""
        self.steps = self._steps()

    def _steps(self) -> Iterator[None]:
        """Count one user or one index a step."""
        keyfs = self._keyfs
        for user in list(self._value(keyfs.USERLIST) or ()):
            record = self._value(keyfs.USER(user=user))
            if record is None:
                continue  # deleted meanwhile
            self.found["users"] += 1
            yield
            for index, config in list(record.get("indexes", {}).items()):
                if config.get("type") == "mirror":
                    self.found["mirrors"] += 1
                    continue
                self.found["stages"] += 1
                self.found["projects"] += len(self._value(keyfs.PROJNAMES(user=user, index=index)) or ())
                yield

    def _value(self, key: TypedKey[Any]) -> Any:  # noqa: ANN401 - whatever type the key has
        """Return the latest value of a key; None if it has none."""
        try:
            _, serial = self.connection.db_read_typedkey(key.relpath)
        except KeyError:
            return None
        commit = self._commits.get(key.name)
        if commit is None or commit[0] != serial:  # an import writes many users, and many projects, in one commit
            changes, _ = loads(self.connection.get_raw_changelog_entry(serial))
            commit = self._commits[key.name] = serial, changes
        return commit[1][key.relpath][2]
