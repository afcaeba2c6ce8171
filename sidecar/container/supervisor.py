"""devpi-server's launch, its restarts, and its life until it exits or a stop is requested."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Coroutine
from dataclasses import replace
from typing import NamedTuple, NoReturn, TypeVar

from sidecar.container.boot import Boot
from sidecar.container.delivery import SendQueues
from sidecar.container.features import Features, call_in_reverse
from sidecar.container.processes import Processes
from sidecar.core.errors import Exit, OperatorError
from sidecar.core.lifecycle import DevpiInfo, Lifecycle, Phase
from sidecar.core.settings import StopSettings
from sidecar.core.threads import to_the_end
from sidecar.devpi.process import Child, ChildEnded
from sidecar.devpi.protocol import Configured, Drain, Drained, Listening, Serve
from sidecar.features.health.monitor import Health
from sidecar.features.hooks import Plan, Running

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds that devpi-server has to exit after its drain, and again after SIGTERM, before it is killed.

A feature has as long for each shutdown hook.
"""
NEXT_PATIENCE = 120.0
"""Seconds that a new process has until it could take over."""


class RestartRefused(OperatorError):
    """devpi-server was not restarted and serves as before, or the container is stopping."""


def _container_stops() -> RestartRefused:
    return RestartRefused("the container is stopping", "see its log")


class DrainResult(NamedTuple):
    """The result of a drain."""

    reported: bool
    """devpi-server reported that it has drained."""
    clean: bool
    """It exited as it should, and no upload can be partial."""


class Supervisor:
    """Launches devpi-server, calls the features' hooks around it, and replaces its process."""

    def __init__(
        self,
        settings: StopSettings,
        lifecycle: Lifecycle,
        features: Features,
        health: Health,
        boot: Boot,
        processes: Processes,
    ) -> None:
        self._settings = settings
        self._lifecycle = lifecycle
        self._features = features
        self._health = health
        self._boot = boot
        self._processes = processes
        self.queues: SendQueues | None = None
        """The send queues of its connections, of earlier processes too; None: it has never listened."""
        self.serves = False
        """It listens, and has not been drained."""
        self._up = False  # `devpi_up` was called without `devpi_down`
        self._over = False
        self._clears_uploads = False  # it has looked for the partial uploads of an earlier one
        self._drain: asyncio.Task[DrainResult] | None = None
        self._wanted = asyncio.Event()
        self._restart: asyncio.Future[None] | None = None

    async def run(self, plan: Plan) -> NoReturn:
        """Have the child become devpi-server, and replace its process when asked, until it exits.

        Raises Exit, ChildEnded, OSError.
        """
        try:
            await self._serve(plan, after_kill=await to_the_end(plan.serverdir.begin_serving))
            while True:
                await self._ended_or(self._wanted.wait())
                self._wanted.clear()
                plan = await self._replace(plan)
        finally:
            self._over = True
            self._answer(_container_stops())

    async def restart_devpi(self) -> None:
        """Replace devpi-server's process by a new one, and return when that is ready.

        New connections wait meanwhile. Raises RestartRefused if devpi-server is not ready, a restart is running, the
        new process can't be started (the old one continues), or the container stops.
        """
        if self._over:
            raise _container_stops()
        if self._restart is not None:
            raise RestartRefused("devpi-server is already being restarted", "wait until it is ready")
        if self._lifecycle.snapshot.phase is not Phase.READY:
            raise RestartRefused(f"devpi-server is not ready ({self._lifecycle.snapshot.phase})", "see /readyz")
        self._restart = asyncio.get_running_loop().create_future()
        self._wanted.set()
        await asyncio.shield(self._restart)

    async def drain(self, grace: float, *, keep_listening: bool = False) -> DrainResult:
        """Let running transfers finish, for at most `grace` seconds, and devpi-server exit. Later calls join."""
        if self._drain is None:
            work = self._drained(self._processes.child, grace, keep_listening)
            self._drain = asyncio.create_task(work, name="drain")
        return await asyncio.shield(self._drain)

    async def devpi_down(self) -> None:
        """Call the features' `devpi_down`, if `devpi_up` was called."""
        if self._up:
            self._up = False
            await call_in_reverse(self._features, lambda feature: feature.devpi_down(), PATIENCE)

    def raise_exit(self, code: int) -> NoReturn:
        """Raise Exit with the code of a devpi-server that exited unexpectedly."""
        hint = "see devpi-server's log for the reason"
        if code < 0:
            name, cause = signal.Signals(-code).name, ""
            if code == -signal.SIGKILL:
                cause = ", most likely for lack of memory"
                hint = "raise the memory limit; the orchestrator's events show whether it ran out of memory"
            reason, code = f"devpi-server was killed by {name}{cause}", 128 - code
        else:
            reason, code = f"devpi-server exited unexpectedly with code {code}", code or 1
        self._health.process_ended(reason, hint)
        raise Exit(code, reason, hint)

    # --- launch ---------------------------------------------------------------------------------------------

    async def _serve(self, plan: Plan, *, after_kill: bool) -> None:
        """Have the child become devpi-server, and return once it is ready. Raises ChildEnded."""
        running = await self._launch(plan, after_kill)
        self._up = True
        for feature in self._features:
            await self._ended_or(feature.devpi_up(running))
        await self._ended_or(self._health.wait_until_ready())
        listening = running.listening
        log.info("ready: devpi-server %s serves on %s", plan.configured.version, ", ".join(listening.addresses))
        self._lifecycle.enter(Phase.READY)  # NextStep then logs the last lines of a start

    async def _launch(self, plan: Plan, after_kill: bool) -> Running:
        """Have the child become devpi-server, and return once it listens. Raises ChildEnded."""
        configured, child, listeners = plan.configured, plan.child, self._boot.listeners
        if self._lifecycle.snapshot.phase is not Phase.LAUNCHING:
            self._lifecycle.enter(Phase.LAUNCHING)
        serve = Serve(tmpdir=str(plan.serverdir.tmp), after_kill=after_kill)
        for feature in self._features:
            serve = await feature.launching(serve, plan)
        await to_the_end(listeners.listen)
        await child.serve(serve, listeners.descriptors)
        listening = await child.expect(Listening)
        self.queues, self.serves = SendQueues(listening.addresses), True
        running = Running(child, listening, plan.serverdir)
        self._clears_uploads = not running.is_replica  # a replica does not look for partial uploads
        self._lifecycle.learn(
            DevpiInfo(
                configured.version,
                role=listening.role,
                addresses=tuple(listening.addresses),
                plugins=tuple((name, version) for name, version in configured.plugins),
                outside_url=configured.outside_url,
            )
        )
        return running

    async def _ended_or(self, other: Coroutine[None, None, T]) -> T:
        """Return the result of `other`. Raises ChildEnded if devpi-server exits first."""
        waits = asyncio.ensure_future(other)
        ended = asyncio.ensure_future(self._processes.child.exited())
        try:
            await asyncio.wait({waits, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise ChildEnded(ended.result())
            return waits.result()
        finally:
            waits.cancel()
            ended.cancel()
            await asyncio.wait({waits, ended})

    # --- restart --------------------------------------------------------------------------------------------

    async def _replace(self, plan: Plan) -> Plan:
        """Replace the process. A failure before the drain refuses the restart, a later one ends the container."""
        try:
            child, configured = await self._next(plan)
        except RestartRefused as refusal:
            self._answer(refusal)
            return plan
        log.info("devpi-server is being restarted")
        self._lifecycle.enter(Phase.LAUNCHING)
        await call_in_reverse(self._features, lambda feature: feature.stopping(), PATIENCE)
        drained = await self.drain(self._settings.grace, keep_listening=True)
        if plan.child.has_ended and not drained.reported:
            raise ChildEnded(await plan.child.exited())  # it failed, rather than drained
        await self._end(plan.child)
        self.serves, self._drain = False, None
        if not drained.clean:
            await to_the_end(plan.serverdir.empty_tmp)
        await self.devpi_down()
        self._processes.child = child
        await self._processes.retire(plan.child)
        plan = replace(plan, child=child, configured=replace(configured, secretfile=plan.configured.secretfile))
        await self._serve(plan, after_kill=not drained.clean)
        self._answer(None)
        return plan

    async def _next(self, plan: Plan) -> tuple[Child, Configured]:
        """Start the next process; return it and what the flags mean to it. Raises RestartRefused, ChildEnded."""
        try:
            child = self._processes.start()
        except Exit as error:
            raise RestartRefused(error.reason, error.hint) from error
        taken = False
        try:
            async with asyncio.timeout(NEXT_PATIENCE):
                configured = await self._ended_or(self._boot.configure(child))
            if configured is None or _meaning(configured) != _meaning(plan.configured):
                reason = "the meaning of devpi-server's flags or configuration file has changed since the start"
                raise RestartRefused(reason, "restart the container to apply that")
            child.hand_over_lock(plan.serverdir.lock.descriptors)
            taken = True
        except ChildEnded as error:
            if self._processes.child.has_ended:
                raise
            reason = f"the new process exited with code {error.code}"
            raise RestartRefused(reason, "see the log; devpi-server serves as before") from error
        except TimeoutError as error:
            reason = f"the new process could not take over within {NEXT_PATIENCE:.0f} s"
            raise RestartRefused(reason, "try again when the machine is less busy") from error
        except Exit as error:
            raise RestartRefused(error.reason, error.hint) from error
        finally:
            if not taken:
                await self._processes.retire(child)
        return child, configured

    def _answer(self, refusal: RestartRefused | None) -> None:
        """End a pending `restart_devpi` with its result."""
        asked, self._restart = self._restart, None
        if asked is None or asked.done():
            return
        if refusal is None:
            asked.set_result(None)
        else:
            asked.set_exception(refusal)
            asked.exception()  # retrieved, or asyncio complains if the caller no longer waits

    # --- drain ----------------------------------------------------------------------------------------------

    async def _drained(self, child: Child, grace: float, keep_listening: bool) -> DrainResult:
        cut: int | None = None  # not reported yet
        await child.send(Drain(grace, keep_listening))
        try:
            async with asyncio.timeout(grace + PATIENCE):
                with contextlib.suppress(ChildEnded):
                    cut = (await child.expect(Drained)).cut
                    if cut:
                        log.warning("%d transfers did not finish within the grace and were cut", cut)
                code = await child.exited()
        except TimeoutError:
            return DrainResult(cut is not None, clean=False)
        return DrainResult(cut is not None, self._clears_uploads and cut == 0 and code == 0)

    async def _end(self, child: Child) -> None:
        """Terminate a process that should have exited, and kill it if it does not."""
        if not child.has_ended:
            child.signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.exited(), PATIENCE)
        await self._processes.end(child)


def _meaning(configured: Configured) -> tuple[object, ...]:
    """Return what must not change between two processes: where the data is, the addresses, and the role."""
    return configured.serverdir, configured.storage, configured.addresses, configured.replica
