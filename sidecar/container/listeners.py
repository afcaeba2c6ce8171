"""devpi-server's sockets: bound by this process, passed to the devpi-server that serves, and closed at the stop.

They are bound before a first state is made, so that an hour's import does not fail on a port in use. No client is
admitted before a devpi-server can answer it. They are bound as waitress does (`waitress.server`), except that a Unix
socket on which another process listens is not removed.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import socket
import stat
import time
from collections.abc import Callable

from sidecar.core.errors import Exit, ExitCode
from sidecar.devpi.protocol import Configured

PATIENCE = 1.0
"""Seconds to wait for an address in use: the kernel releases a killed server's lock before its sockets."""
_NO_LISTENER = frozenset({errno.ECONNREFUSED, errno.ENOENT})
"""Errors of connecting to a Unix socket on which no process listens. After any other, one may."""


class Listeners:
    """The sockets of all of devpi-server's addresses; none before `bind` and after `close`. Close-on-exec."""

    def __init__(self) -> None:
        self._configured: Configured | None = None
        self._sockets: list[socket.socket] = []
        self._file: tuple[int, int] | None = None
        """Device and inode of the Unix socket's file that this process created; None: it created none."""
        self._listening = False

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The sockets' file descriptors, in the order of devpi-server's addresses."""
        return tuple(each.fileno() for each in self._sockets)

    def bind(self, configured: Configured) -> None:
        """Bind all addresses; connections are still refused there. Blocks for `PATIENCE` if one is in use.

        Raises Exit with code 69 for the first address that can't be bound.
        """
        self._configured = configured
        deadline = time.monotonic() + PATIENCE
        if (path := configured.unix_socket) is not None:
            self._bind_unix(configured.addresses[0], path, configured.unix_socket_mode, deadline)
            return
        for (family, *address), name in zip(configured.listen, configured.addresses, strict=True):
            try:
                self._sockets.append(_unless_in_use(functools.partial(_bound, family, tuple(address)), deadline))
            except OSError as error:
                raise _refused(name, error, "free the port, or choose another one with --port") from error

    def listen(self) -> None:
        """Let the kernel queue connections until devpi-server accepts them. Raises Exit with code 69.

        Does nothing if the sockets listen already.
        """
        if self._configured is None or self._listening:
            return
        path = self._configured.unix_socket
        if path is not None and self._file != _identity(path):
            # another starting server mistook our socket for a killed server's, because neither listened yet
            self.close()
            self.bind(self._configured)
        for each, name in zip(self._sockets, self._configured.addresses, strict=True):
            try:
                each.listen(self._configured.backlog)
            except OSError as error:  # TCP: another process bound it too, and listened first
                raise _refused(name, error, "free the port, or choose another one with --port") from error
        self._listening = True

    def close(self) -> None:
        """Close this process's sockets, and remove the Unix socket's file, so that no new client finds it.

        A devpi-server that has the sockets listens until it closes its own. Idempotent.
        """
        for each in self._sockets:
            each.close()
        self._sockets.clear()
        made, self._file = self._file, None
        if made is None or self._configured is None or self._configured.unix_socket is None:
            return
        if made == _identity(self._configured.unix_socket):
            with contextlib.suppress(OSError):
                os.unlink(self._configured.unix_socket)  # noqa: PTH108 - a path's own spelling, which may be relative

    def _bind_unix(self, name: str, path: str, mode: int, deadline: float) -> None:
        def bound() -> socket.socket:
            _make_way(path)
            return _bound(socket.AF_UNIX, path)

        try:
            self._sockets.append(_unless_in_use(bound, deadline))
            self._file = _identity(path)
            os.chmod(path, mode)  # noqa: PTH101
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            hint = "remove the existing file if it is not in use, or choose another path with --unix-socket"
            raise _refused(name, error, hint) from error


def _unless_in_use(bind: Callable[[], socket.socket], deadline: float) -> socket.socket:
    """Return what `bind` returns, retrying while the address is in use. Raises OSError, if in use at the deadline."""
    while True:
        try:
            return bind()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                raise
        time.sleep(0.05)


def _bound(family: int, address: tuple[str | int, ...] | str) -> socket.socket:
    """Return a socket as waitress makes it. Raises OSError."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)  # as waitress' loop needs it: both processes share the open file
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, ValueError):
        bound.close()
        raise
    return bound


def _make_way(path: str) -> None:
    """Remove a Unix socket without a listener; any other file stays. Raises OSError if a process may listen."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):  # noqa: PTH116
            return  # bind fails
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        result = probe.connect_ex(path)
    if result not in _NO_LISTENER:
        why = "" if result in (0, errno.EAGAIN) else f" (connecting to it: {os.strerror(result)})"
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE) + why)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _refused(address: str, error: OSError | ValueError, hint: str) -> Exit:
    reason = getattr(error, "strerror", None) or error
    return Exit(ExitCode.PORT_IN_USE, f"devpi-server can't listen on {address}: {reason}", hint)
