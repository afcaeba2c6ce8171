"""The worker's side of the socket pair to the sidecar. Blocking; packets are atomic, so several processes may write."""

from __future__ import annotations

import os
import socket

from sidecar.core.errors import Exit, ExitCode
from sidecar.devpi.protocol import PACKET_BYTES, HoldLock, Message, OpenFiles, Serve, decode, encode

_DESCRIPTORS = 253
"""The most that the kernel passes with one packet."""


class SidecarGone(Exception):
    """The sidecar has closed its side, or is dead."""


class Channel:
    """Messages to and from the sidecar."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._lock_fds: list[int] = []
        self._listeners: list[socket.socket] = []

    def send(self, message: Message) -> None:
        """Send one message; block while the sidecar is behind. Raises SidecarGone."""
        try:
            self._socket.send(encode(message))
        except ConnectionError as error:
            raise SidecarGone from error

    def hand_over_open_files(self) -> None:
        """Let the sidecar count this process's open files. Raises SidecarGone."""
        try:
            fd = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:  # no /proc, or no descriptor left: one metric is missing
            return
        try:
            socket.send_fds(self._socket, [encode(OpenFiles())], [fd])
        except ConnectionError as error:
            raise SidecarGone from error
        finally:
            os.close(fd)

    def take_listeners(self) -> list[socket.socket]:
        """Return the listening sockets that came with `Serve`, and give them up to the caller."""
        taken, self._listeners = self._listeners, []
        return taken

    def receive(self) -> Message:
        """Wait for the next message and return it. Descriptors that come with it are close-on-exec.

        A lock's descriptors are kept until this process exits, listening sockets for `take_listeners`. Raises
        SidecarGone, and Exit if this process can't open another descriptor.
        """
        try:
            packet, fds, flags, _ = socket.recv_fds(self._socket, PACKET_BYTES, _DESCRIPTORS)
        except ConnectionError as error:
            raise SidecarGone from error
        if not packet:
            raise SidecarGone
        for fd in fds:
            os.set_inheritable(fd, False)  # recv_fds ignores its flags, also MSG_CMSG_CLOEXEC
        if flags & socket.MSG_CTRUNC:
            reason = "devpi-server's process can't open the descriptors that the sidecar passes to it"
            raise Exit(ExitCode.EXHAUSTED, reason, "raise the limit of open files (--ulimit nofile, ulimit -n)")
        message = decode(packet)
        if isinstance(message, HoldLock):
            self._lock_fds += fds
        elif isinstance(message, Serve):
            self._listeners += [socket.socket(fileno=fd) for fd in fds]
        return message
