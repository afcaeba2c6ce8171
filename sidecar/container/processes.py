"""The processes of devpi-server: the current one, and the next one during a replacement."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

from sidecar.devpi.process import Child
from sidecar.devpi.protocol import Message
from sidecar.devpi.spawn import Spawned

_DRY_TIMEOUT = 1.0
"""Seconds to wait for the last messages of a process that has exited."""


class Processes:
    """Starts, listens to and reaps them. Lives on the event loop."""

    def __init__(self, spawned: Spawned, spawn: Callable[[], Spawned], hear: Callable[[Message], None]) -> None:
        """`spawned` is the first process; `spawn` starts another; `hear` gets the unsolicited messages of all."""
        self.child = Child(spawned)
        """The process that serves, or will serve."""
        self._spawn = spawn
        self._hear = hear
        self._living: list[Child] = []
        self._unheard: list[Child] = []
        """Processes adopted before `run`, which listens to them even if they have exited: they may have said why."""
        self._hearing: dict[Child, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._adopt(self.child)

    def start(self) -> Child:
        """Start another process beside the present one. Raises Exit.

        Not in another thread: the kernel would kill the process when that thread ends.
        """
        child = Child(self._spawn())
        self._adopt(child)
        return child

    async def run(self) -> None:
        """Listen to all processes until cancelled. Raises what `hear` raises, which is an internal error."""
        async with asyncio.TaskGroup() as self._group:
            for child in self._unheard:
                self._hearing[child] = self._group.create_task(child.listen())
            await asyncio.Event().wait()

    async def end(self, child: Child) -> int:
        """Kill a process with its process group; return its exit code, or minus the signal's number."""
        child.signal(signal.SIGKILL)
        return await child.exited()

    async def retire(self, child: Child) -> None:
        """Kill a process that is not needed any more, and close its descriptors."""
        await self.end(child)
        hearing = self._hearing.pop(child)
        await asyncio.wait({hearing}, timeout=_DRY_TIMEOUT)
        hearing.cancel()  # a forked process may still hold the other end of the socket
        await asyncio.wait({hearing})
        child.close()

    async def end_all(self) -> None:
        """Kill all of them."""
        for child in list(self._living):
            await self.end(child)

    def reap(self) -> None:
        """Reap every child of this process: devpi-server's, and the orphans that PID 1 inherits."""
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
