"""The sidecar's child process, which runs devpi-server (see `sidecar.worker`): messages, signals, and its exit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import TypeVar, cast, overload

from sidecar.core.errors import OperatorError
from sidecar.devpi import crash
from sidecar.devpi.protocol import (
    PACKET_BYTES,
    UNASKED,
    CheckRootPassword,
    HoldLock,
    Message,
    OpenFiles,
    RootPasswordChecked,
    RootPasswordSet,
    Serve,
    SetRootPassword,
    decode,
    encode,
)
from sidecar.devpi.spawn import Spawned

A = TypeVar("A", bound=Message)
B = TypeVar("B", bound=Message)
C = TypeVar("C", bound=Message)

SET_PASSWORD_TIMEOUT = 60.0
"""Seconds to wait for devpi-server's answer: its write transactions may queue behind an upload."""
CHECK_PASSWORD_TIMEOUT = 10.0
"""Seconds to wait for its answer to a check, which writes nothing and takes 0.25 s."""


class SetFailed(OperatorError):
    """root's password was not set, or may not have been."""

    def __init__(
        self,
        reason: str,
        *,
        maybe_done: bool,
        retryable: bool = False,
        hint: str = "see devpi-server's log, and try again",
    ) -> None:
        """`retryable`: it failed for lack of memory or threads, so a retry may succeed."""
        super().__init__(reason, hint)
        self.maybe_done = maybe_done
        self.retryable = retryable


class ChildEnded(Exception):
    """The child exited instead of answering."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code = code
        """Its exit code, or minus the signal's number."""


class Child:
    """The process that `spawn` started. Lives on the event loop."""

    def __init__(self, spawned: Spawned) -> None:
        self._process = spawned.process
        self._socket = spawned.socket
        self._crash = spawned.crash
        self._socket.setblocking(False)
        self._exited: asyncio.Future[int] | None = None
        self._answer: asyncio.Future[RootPasswordSet | RootPasswordChecked] | None = None
        self._asked = 0
        self._closed = False
        self._open_files: int | None = None
        self._heard: asyncio.Queue[Message | None] = asyncio.Queue()
        self.on_message: Callable[[Message], None] = lambda message: None
        """Called, on the event loop, with its unasked messages."""

    @property
    def pid(self) -> int:
        """Its process id, also that of its session and its process group."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it has exited and was reaped."""
        return self._process.returncode is not None

    def reaped(self, status: int) -> None:
        """Take its wait status; to be called by the code that reaps children."""
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._process.returncode < 0:
            crash.log_report(self._crash, "devpi-server")
        if self._exited is not None and not self._exited.done():
            self._exited.set_result(self._process.returncode)

    async def exited(self) -> int:
        """Wait for its exit; return its exit code, or minus the signal's number."""
        if self._process.returncode is not None:
            return self._process.returncode
        if self._exited is None:
            self._exited = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._exited)

    async def send(self, message: Message) -> None:
        """Send one message. Does nothing if the child has exited, which `expect` and `exited` report."""
        with contextlib.suppress(ConnectionError):
            await asyncio.get_running_loop().sock_sendall(self._socket, encode(message))

    async def serve(self, request: Serve, descriptors: tuple[int, ...]) -> None:
        """Have the child serve on the listening sockets `descriptors`. Otherwise as `send`."""
        with contextlib.suppress(ConnectionError):
            while True:
                try:
                    socket.send_fds(self._socket, [encode(request)], descriptors)
                    return
                except BlockingIOError:
                    await self._writable()

    def hand_over_lock(self, descriptors: tuple[int, ...]) -> None:
        """Let the child hold the serverdir's lock too, so that it is held as long as either process lives."""
        with contextlib.suppress(ConnectionError):
            socket.send_fds(self._socket, [encode(HoldLock())], descriptors)

    async def listen(self) -> None:
        """Receive messages until the child closes its end: answers go to their callers, the rest to `on_message`."""
        while True:
            try:
                packet, descriptors = await self._packet()
            except ConnectionError:
                packet, descriptors = b"", []
            if not packet:
                break
            self._hear(decode(packet), descriptors)
        self._closed = True
        self._heard.put_nowait(None)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(SetFailed("devpi-server has exited", maybe_done=True))

    def _hear(self, message: Message, descriptors: list[int]) -> None:
        """Pass one message on."""
        match message:
            case OpenFiles() if descriptors:
                (self._open_files,) = descriptors
            case RootPasswordSet() | RootPasswordChecked() as answer:
                if answer.number == self._asked and self._answer is not None and not self._answer.done():
                    self._answer.set_result(answer)
            case _ if isinstance(message, UNASKED):
                self.on_message(message)
            case _:
                self._heard.put_nowait(message)

    async def _packet(self) -> tuple[bytes, list[int]]:
        """Return the next packet and its descriptors, which asyncio's `sock_recv` would drop."""
        while True:
            try:
                packet, descriptors, _, _ = socket.recv_fds(self._socket, PACKET_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                await self._readable()
            else:
                return packet, descriptors

    async def _readable(self) -> None:
        readable = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._socket, readable.set)
        try:
            await readable.wait()
        finally:
            asyncio.get_running_loop().remove_reader(self._socket)

    async def _writable(self) -> None:
        writable = asyncio.Event()
        asyncio.get_running_loop().add_writer(self._socket, writable.set)
        try:
            await writable.wait()
        finally:
            asyncio.get_running_loop().remove_writer(self._socket)

    def open_files(self) -> int | None:
        """Return how many descriptors it has open; None: it has exited, or they can't be counted."""
        if self._open_files is None:
            return None
        try:
            return len(os.listdir(self._open_files))  # noqa: PTH208 - it has no path
        except OSError:
            return None

    @overload
    async def expect(self, one: type[A], /) -> A: ...
    @overload
    async def expect(self, one: type[A], other: type[B], /) -> A | B: ...
    @overload
    async def expect(self, one: type[A], other: type[B], third: type[C], /) -> A | B | C: ...
    async def expect(self, *kinds: type[Message]) -> Message:
        """Return the child's next message, which must be one of `kinds`. Raises ChildEnded."""
        message = await self._heard.get()
        if message is None:
            self._heard.put_nowait(None)
            raise ChildEnded(await self.exited())
        if not isinstance(message, kinds):
            raise AssertionError(f"the child sent {type(message).__name__} instead of {kinds}")
        return message

    async def set_root_password(self, password: str, *, secretfile_changed: bool) -> str | None:
        """Change root's password in the running devpi-server; return its new hash's digest. Raises SetFailed."""
        request = SetRootPassword(self._asked + 1, password, secretfile_changed)
        answer = cast(RootPasswordSet, await self._ask(request, SET_PASSWORD_TIMEOUT))
        if answer.error is not None:
            raise SetFailed(answer.error, maybe_done=answer.maybe_done, retryable=answer.retryable)
        return answer.root_hash

    async def is_root_password(self, password: str) -> bool | None:
        """Whether this is root's password in the running devpi-server; None: unknown now."""
        request = CheckRootPassword(self._asked + 1, password)
        try:
            return cast(RootPasswordChecked, await self._ask(request, CHECK_PASSWORD_TIMEOUT)).holds
        except SetFailed:
            return None

    async def _ask(
        self, request: SetRootPassword | CheckRootPassword, patience: float
    ) -> RootPasswordSet | RootPasswordChecked:
        """Return the answer to a request about root's password; one at a time. Raises SetFailed."""
        if self._closed:
            raise SetFailed("devpi-server has exited", maybe_done=False)
        self._answer = asyncio.get_running_loop().create_future()
        self._asked = request.number
        await self.send(request)
        try:
            return await asyncio.wait_for(self._answer, patience)
        except TimeoutError as error:
            raise SetFailed(f"no answer from devpi-server for {patience:.0f} s", maybe_done=True) from error

    def close(self) -> None:
        """Close its descriptors, once it has exited and all its messages were received."""
        self._socket.close()
        os.close(self._crash)
        if self._open_files is not None:
            os.close(self._open_files)
            self._open_files = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child and all processes of its group; does nothing if it has exited."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
