"""Which of devpi's mirrors have no list of their upstream's projects: they request every unknown name upstream."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from devpi_server.log import threadlog

from sidecar.devpi.protocol import Message, MirrorsSeen

if TYPE_CHECKING:
    from devpi_server.main import XOM

_NAMED = 20
"""Mirrors that are reported by name; the rest is counted."""
_NAME = 200
"""Characters of a name that are reported."""
_PAUSE = 5.0
"""Minimum seconds from one scan to the next, …"""
_SHARE = 100
"""… and how many times as long as the scan itself at least: a scan of many users takes long."""


class MirrorsWatch:
    """Scans the indexes of one devpi-server, and reports changes. For use in one thread."""

    def __init__(self, xom: XOM, retain: Callable[[set[str]], None], send: Callable[[Message], None]) -> None:
        """`retain` gets the names of all mirrors after a scan."""
        self._xom = xom
        self._retain = retain
        self._send = send
        self._reported: MirrorsSeen | None = None
        self._serial = -1
        self._due = 0.0
        self._failed = False

    def look(self) -> None:
        """Scan all indexes if something has changed. Raises SidecarGone; errors of devpi's database are logged."""
        if self._xom.config.offline_mode or time.monotonic() < self._due:
            return  # offline mirrors request nothing
        began = time.monotonic()
        try:
            serial = self._xom.keyfs.get_current_serial()
            if serial == self._serial:
                return
            seen = self._scan()
        except Exception:
            if not self._failed:
                threadlog.exception("the indexes can't be read")
            self._failed = True
        else:
            if seen != self._reported:
                self._send(seen)
            self._serial, self._reported, self._failed = serial, seen, False
        self._due = began + max(_PAUSE, _SHARE * (time.monotonic() - began))

    def _scan(self) -> MirrorsSeen:
        with self._xom.keyfs.read_transaction():
            mirrors = sorted(self._mirrors())
        self._retain({name for name, _ in mirrors})
        without = [name for name, has_list in mirrors if not has_list]
        return MirrorsSeen(len(without), [name[:_NAME] for name in without[:_NAMED]])

    def _mirrors(self) -> Iterator[tuple[str, bool]]:
        """Yield each mirror's name, and whether it keeps a list. Needs a transaction."""
        for user in self._xom.model.get_userlist():
            record: dict[str, Any] = user.key.get()
            for index, config in record.get("indexes", {}).items():
                if config.get("type") == "mirror":
                    yield f"{user.name}/{index}", not config.get("mirror_no_project_list", False)
