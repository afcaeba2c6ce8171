"""The processes of devpi-server: the one that there is, and the next one while it is replaced."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

from sidecar.devpi.process import Child
from sidecar.devpi.protocol import Message
from sidecar.devpi.spawn import Spawned

LAST_WORDS = 1.0
"""Seconds to wait for the end of what a process that has ended has said."""


class Processes:
    """Starts them, hears them, reaps them. Lives on the event loop."""

    def __init__(self, spawned: Spawned, spawn: Callable[[], Spawned], hear: Callable[[Message], None]) -> None:
        """`spawned` is the first one; `spawn` starts another, and `hear` gets what any of them says unasked."""
        self.child = Child(spawned)
        """The one that serves, or will."""
        self._spawn = spawn
        self._hear = hear
        self._living: list[Child] = []
        self._unheard: list[Child] = []
        """Before `run`; one that has ended by then may have said why."""
        self._hearing: dict[Child, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._adopt(self.child)

    def start(self) -> Child:
        """Start another one, beside the one that there is. Raises Exit.

        Not in another thread: the kernel would kill the process when that thread ends.
        """
        child = Child(self._spawn())
        self._adopt(child)
        return child

    async def run(self) -> None:
        """Hear all of them, until this is cancelled. An exception is an internal error of whoever hears."""
        async with asyncio.TaskGroup() as self._group:
            for child in self._unheard:
                self._hearing[child] = self._group.create_task(child.listen())
            await asyncio.Event().wait()

    async def end(self, child: Child) -> int:
        """Kill one and all of its process group, if it lives; its exit code, or minus the signal's number."""
        child.signal(signal.SIGKILL)
        return await child.exited()

    async def retire(self, child: Child) -> None:
        """End one that is not needed any more, and give back its descriptors."""
        await self.end(child)
        hearing = self._hearing.pop(child)
        await asyncio.wait({hearing}, timeout=LAST_WORDS)
        hearing.cancel()  # a process that it has forked may hold the other end of the socket
        await asyncio.wait({hearing})
        child.close()

    async def end_all(self) -> None:
        """Leave none behind."""
        for child in list(self._living):
            await self.end(child)

    def reap(self) -> None:
        """Reap every child of this process: ours, and as PID 1 whoever is left behind by others."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for child in list(self._living):
                if child.pid == pid:
                    self._living.remove(child)
                    child.reaped(status)

    def _adopt(self, child: Child) -> None:
        child.on_message = self._hear
        self._living.append(child)
        if self._group is None:
            self._unheard.append(child)
        else:
            self._hearing[child] = self._group.create_task(child.listen())
