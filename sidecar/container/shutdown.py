"""Shutdown: not ready at once, drain, end devpi-server, clear up, deliver what the kernel still has to send."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable

from sidecar.container.boot import Boot
from sidecar.container.delivery import SendQueues
from sidecar.container.features import Features, call_in_reverse
from sidecar.container.processes import Processes
from sidecar.container.supervisor import PATIENCE, Supervisor
from sidecar.core.lifecycle import Lifecycle, Phase
from sidecar.core.settings import StopSettings

log = logging.getLogger(__name__)


class Shutdown:
    """A clean stop: whether one is requested, and its steps."""

    def __init__(
        self,
        settings: StopSettings,
        lifecycle: Lifecycle,
        features: Features,
        boot: Boot,
        processes: Processes,
        supervisor: Supervisor,
    ) -> None:
        self._settings = settings
        self._lifecycle = lifecycle
        self._features = features
        self._boot = boot
        self._processes = processes
        self._supervisor = supervisor
        self._asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._cleared_up = False

    def ask(self) -> None:
        """Request a clean stop; a second request cuts it short."""
        if self._asked.is_set():
            self._hurry.set()
        self._asked.set()

    async def asked(self) -> None:
        """Wait until a stop is requested."""
        await self._asked.wait()

    async def run(self) -> None:
        """Become not ready at once, let running transfers finish, then end devpi-server."""
        was = self._lifecycle.snapshot.phase
        self._lifecycle.enter(Phase.STOPPING)
        settling = call_in_reverse(self._features, lambda feature: feature.stopping(), PATIENCE)
        await self._within(PATIENCE * (len(self._features) + 1), settling)
        queues = None if was is Phase.FAILED else self._supervisor.queues
        delay, grace = self._settings.delay, self._settings.grace
        deadline = time.monotonic() + grace
        clean = False
        if queues is not None and self._supervisor.serves:
            log.info("stopping: %.0f s for load balancers, then up to %.0f s for running transfers", delay, grace)
            await self._within(delay, asyncio.Event().wait())
            # from now on new connections are refused as soon as devpi-server has accepted the queued ones
            await self._within(PATIENCE, asyncio.to_thread(self._boot.listeners.close))
            deadline = time.monotonic() + grace  # of drain and delivery together
            drain = asyncio.ensure_future(self._supervisor.drain(grace))
            await self._within(grace + PATIENCE, asyncio.wait({drain}))
            child = self._processes.child
            child.signal(signal.SIGTERM)
            await self._within(PATIENCE, child.exited())
            clean = drain.done() and drain.result().clean
            drain.cancel()
        await self._processes.end_all()
        await self._supervisor.devpi_down()
        await self.clear_up(clean=clean)
        if queues is not None:
            await self._deliver(queues, deadline)
        log.info("stopped")

    async def clear_up(self, *, clean: bool = False) -> None:
        """Remove partial files from the serverdir, once. No process may work there any more.

        `clean`: devpi-server has left no partial upload either.
        """
        if (serverdir := self._boot.serverdir) is None or self._cleared_up:
            return
        self._cleared_up = True
        try:
            await asyncio.to_thread(serverdir.clear_up, whole=clean)
        except OSError as error:
            log.warning("can't sync the serverdir's volume: %s", error.strerror)

    async def _deliver(self, queues: SendQueues, deadline: float) -> None:
        """Wait, at most until `deadline`, for what the kernel still sends: a container's network ends with it."""
        if not (unsent := await asyncio.to_thread(queues.unsent)).connections:
            return
        left = max(0.0, deadline - time.monotonic())
        log.info("devpi-server has exited; %s still being delivered, waiting up to %.0f s", unsent, left)
        await self._within(left, queues.sent())
        if (unsent := await asyncio.to_thread(queues.unsent)).connections:
            log.warning("%s were not delivered, and are lost if the network ends with this process", unsent)

    async def _within(self, seconds: float, what: Awaitable[object]) -> None:
        """Wait for `what`, at most `seconds`, or until a second stop is requested."""
        waits = {asyncio.ensure_future(what), asyncio.ensure_future(self._hurry.wait())}
        _, pending = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
