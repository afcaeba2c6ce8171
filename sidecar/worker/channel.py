"""The child's end of the socket pair to the sidecar. Blocking; packets are atomic, so several processes may write."""

from __future__ import annotations

import os
import socket

from sidecar.devpi.protocol import PACKET_BYTES, HoldLock, Message, OpenFiles, decode, encode

_DESCRIPTORS = 2
"""At most so many come with a packet: those of the serverdir's lock."""


class SidecarGone(Exception):
    """The sidecar has closed its end, or is dead."""


class Channel:
    """Messages to and from the sidecar."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._lock_fds: list[int] = []

    def send(self, message: Message) -> None:
        """Send one message; blocks while the sidecar is behind. Raises SidecarGone."""
        try:
            self._socket.send(encode(message))
        except (BrokenPipeError, ConnectionError) as error:
            raise SidecarGone from error

    def hand_over_open_files(self) -> None:
        """Let the sidecar count this process's descriptors. Raises SidecarGone."""
        try:
            fd = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:  # no /proc, or no descriptor left: a metric less
            return
        try:
            socket.send_fds(self._socket, [encode(OpenFiles())], [fd])
        except ConnectionError as error:
            raise SidecarGone from error
        finally:
            os.close(fd)

    def receive(self) -> Message:
        """The next message; blocks. A lock's descriptors are kept until this process ends. Raises SidecarGone."""
        try:
            packet, fds, _, _ = socket.recv_fds(self._socket, PACKET_BYTES, _DESCRIPTORS)
        except ConnectionError as error:
            raise SidecarGone from error
        if not packet:
            raise SidecarGone
        message = decode(packet)
        if isinstance(message, HoldLock):
            self._lock_fds += fds
        return message
