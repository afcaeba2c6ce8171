"""Watch devpi's users while it serves: root's password, and users whose password devpi-server can't check.

devpi's own tools and clients that log in as root can change both at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from devpi_server.log import threadlog

from sidecar.core.password_hash import is_checkable
from sidecar.devpi.protocol import Message, RootPasswordSeen, UnusableSeen

if TYPE_CHECKING:
    from devpi_server.main import XOM

EVERY = 1.0
"""Seconds between two looks."""
_FAILURES = 3
"""Failed looks in a row after which root's password is `unseen`."""
_UNSETTLED = ("unchecked", "unseen")
"""States of root's password that are checked again even if its record hasn't changed."""
_NAMED = 20
"""Users that are reported by name; the rest is counted."""
_NAME = 200
"""Characters of a name that are reported."""
_PAUSE = 5.0
"""Minimum seconds from one scan to the next, …"""
_SHARE = 100
"""… and how many times as long as the scan itself at least: a scan of many users takes long."""


class UsersWatch:
    """Watches the users of one devpi-server, and reports changes. For use in one thread."""

    def __init__(self, xom: XOM, look_at_root: Callable[[], str], root: str, send: Callable[[Message], None]) -> None:
        """`look_at_root` returns the state of root's password (see `Listening`); `root` is the state sent before."""
        self._xom = xom
        self._look_at_root = look_at_root
        self._send = send
        self._reported: str | None = root
        self._serial: int | None = None
        self._failures = 0
        self._unusable = _Unusable(xom, send)

    def look(self) -> None:
        """Report what has changed. Raises SidecarGone; errors of devpi's database are logged."""
        if self._xom.is_replica():
            return  # its users are the primary's
        self.look_at_root()
        self._unusable.look()

    def root_was_changed(self) -> None:
        """Report the state at the next look, even if it is the same."""
        self._reported = None

    def look_at_root(self) -> None:
        """Report the state of root's password if it has changed. Reads its hash only if root's record has changed."""
        try:
            serial = self._serial_of_root()
            if serial == self._serial and self._reported is not None:
                return
            state = self._look_at_root()
        except Exception:
            self._failures += 1
            if self._failures == 1:
                threadlog.exception("root's password can't be read")
            if self._failures < _FAILURES:
                return
            serial, state = None, "unseen"
        else:
            self._failures = 0
        self._serial = None if state in _UNSETTLED else serial
        if state != self._reported:
            self._send(RootPasswordSeen(state))
            self._reported = state

    def _serial_of_root(self) -> int:
        """Return the serial of the last change of root's record; -1 if there was never one."""
        keyfs: Any = self._xom.keyfs  # devpi's type annotations are wrong
        with keyfs.get_connection() as connection:
            try:
                return int(connection.db_read_typedkey(keyfs.USER(user="root").relpath)[1])
            except KeyError:
                return -1


class _Unusable:
    """Users, except root, whose password hash this devpi-server can't check."""

    def __init__(self, xom: XOM, send: Callable[[Message], None]) -> None:
        self._xom = xom
        self._send = send
        self._users: frozenset[str] | None = None
        self._serial = -1
        self._due = 0.0
        self._failed = False

    def look(self) -> None:
        """Scan all users once; then, after each change, those that were found, until none is left."""
        if (self._users is not None and not self._users) or time.monotonic() < self._due:
            return
        began = time.monotonic()
        try:
            serial, users = self._scan()
        except Exception:
            if not self._failed:
                threadlog.exception("the users' passwords can't be read")
            self._failed = True
        else:
            if users != self._users:
                names = [name[:_NAME] for name in sorted(users)[:_NAMED]]
                self._send(UnusableSeen(len(users), names))
            self._serial, self._users = serial, users
        took = time.monotonic() - began
        self._due = began + max(_PAUSE, _SHARE * took)

    def _scan(self) -> tuple[int, frozenset[str]]:
        """Return the serial of the scan, and the users that were found."""
        serial = self._xom.keyfs.get_current_serial()
        if self._users is not None and serial == self._serial:
            return serial, self._users
        with self._xom.keyfs.read_transaction() as transaction:
            root = self._xom.model
            users: Iterable[Any] = (
                root.get_userlist() if self._users is None else filter(None, map(root.get_user, self._users))
            )
            found = frozenset(user.name for user in users if user.name != "root" and _is_unusable(user.key.get()))
            return int(transaction.at_serial), found


def _is_unusable(record: dict[str, object]) -> bool:
    pwhash = record.get("pwhash")
    return bool(pwhash) and not is_checkable(pwhash, record.get("pwsalt"))
