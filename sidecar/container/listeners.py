"""devpi-server's sockets: bound by this process, lent to the devpi-server that serves, and closed at the stop.

They are bound before a first state is made, so that an hour's import does not end with a port that is in use, and no
client is let in before there is a devpi-server to answer it. They are bound as waitress would (`waitress.server`),
except that a Unix socket at which somebody listens is not taken away.
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
"""Seconds to wait for an address in use: a server that was just killed gives its lock back before its sockets."""
_NOBODY = frozenset({errno.ECONNREFUSED, errno.ENOENT})
"""What connecting to a Unix socket gives if nobody listens there. Everything else may be somebody."""


class Listeners:
    """The sockets at all of devpi-server's addresses; none until `bind`, and none after `close`. Close-on-exec."""

    def __init__(self) -> None:
        self._configured: Configured | None = None
        self._sockets: list[socket.socket] = []
        self._file: tuple[int, int] | None = None
        """Device and inode of the Unix socket's file, which is ours; None: there is none."""
        self._listening = False

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Of the sockets, in the order of devpi-server's addresses."""
        return tuple(each.fileno() for each in self._sockets)

    def bind(self, configured: Configured) -> None:
        """Bind all addresses; connections are still refused there. Blocks for `PATIENCE` where one is in use.

        Raises Exit with the code 69 for the first one that can't be had.
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
        """Let the kernel take connections, which wait until devpi-server accepts them. Raises Exit with the code 69.

        What is listening already goes on.
        """
        if self._configured is None or self._listening:
            return
        path = self._configured.unix_socket
        if path is not None and self._file != _identity(path):
            # two that were bound and did not listen yet can't tell each other from one that was killed
            self.close()
            self.bind(self._configured)
        for each, name in zip(self._sockets, self._configured.addresses, strict=True):
            try:
                each.listen(self._configured.backlog)
            except OSError as error:  # TCP: somebody else has bound it too, and came first to listen
                raise _refused(name, error, "free the port, or choose another one with --port") from error
        self._listening = True

    def close(self) -> None:
        """Close this process's sockets, and remove the Unix socket's file, so that nobody new finds it.

        A devpi-server that has them goes on listening until it closes its own. To do it again does nothing.
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
            hint = "remove what is there if nobody uses it, or choose another path with --unix-socket"
            raise _refused(name, error, hint) from error


def _unless_in_use(bind: Callable[[], socket.socket], deadline: float) -> socket.socket:
    """What `bind` returns, as soon as nobody is there. Raises OSError, if somebody is, then at the deadline."""
    while True:
        try:
            return bind()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                raise
        time.sleep(0.05)


def _bound(family: int, address: tuple[str | int, ...] | str) -> socket.socket:
    """A socket as waitress makes it. Raises OSError."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)  # waitress' loop has it so, and the open file is one for both processes
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, ValueError):
        bound.close()
        raise
    return bound


def _make_way(path: str) -> None:
    """Remove a Unix socket at which nobody listens; what is no socket stays. Raises OSError if somebody may listen."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):  # noqa: PTH116
            return  # to bind fails
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        result = probe.connect_ex(path)
    if result not in _NOBODY:
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
