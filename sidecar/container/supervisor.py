"""devpi-server's launch, its restarts, and its life until it ends by itself or a stop is asked for."""

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
from sidecar.container.features import Features, downwards
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
"""Seconds that devpi-server has to end after its drain, and again after SIGTERM, before it is killed.

A feature has as long for each hook of the way down.
"""
NEXT_PATIENCE = 120.0
"""Seconds that a process has until it could take over."""


class RestartRefused(OperatorError):
    """devpi-server was not restarted, and serves as before; or the container ends meanwhile."""


def _it_ends() -> RestartRefused:
    return RestartRefused("the container ends", "see its log")


class DrainEnd(NamedTuple):
    """What a drain came to."""

    told: bool
    """devpi-server has said that it has drained."""
    whole: bool
    """It has ended as it should, and no upload can have been left half-made."""


class Supervisor:
    """The processes as devpi-server: launches it, brings the features together with it, and replaces it."""

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
        self._up = False  # the features know of a devpi-server
        self._over = False
        self._whole = False  # it has looked for the uploads that an earlier one left half-made
        self._drain: asyncio.Task[DrainEnd] | None = None
        self._wanted = asyncio.Event()
        self._restart: asyncio.Future[None] | None = None

    async def run(self, plan: Plan) -> NoReturn:
        """Have the child become devpi-server, and follow it until it ends by itself.

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
            self._answer(_it_ends())

    async def restart_devpi(self) -> None:
        """Replace devpi-server's process by a new one, and return when that is ready.

        Nobody is refused meanwhile: who connects waits. Raises RestartRefused where devpi-server is not ready, where a
        restart runs, where the new process can't be started (the old one goes on), and where the container ends.
        """
        if self._over:
            raise _it_ends()
        if self._restart is not None:
            raise RestartRefused("devpi-server is being restarted already", "wait for that")
        if self._lifecycle.snapshot.phase is not Phase.READY:
            raise RestartRefused(f"devpi-server is not ready ({self._lifecycle.snapshot.phase})", "see /readyz")
        self._restart = asyncio.get_running_loop().create_future()
        self._wanted.set()
        await asyncio.shield(self._restart)

    async def drain(self, grace: float, *, keep_listening: bool = False) -> DrainEnd:
        """Let what runs finish, for at most `grace` seconds, and devpi-server end; a second call joins the first."""
        if self._drain is None:
            work = self._drained(self._processes.child, grace, keep_listening)
            self._drain = asyncio.create_task(work, name="drain")
        return await asyncio.shield(self._drain)

    # --- launch ---------------------------------------------------------------------------------------------

    async def _serve(self, plan: Plan, *, after_kill: bool) -> None:
        """Have the child become devpi-server, and return when it is ready. Raises ChildEnded."""
        running = await self._launch(plan, after_kill)
        self._up = True
        for feature in self._features:
            await self._ended_or(feature.devpi_up(running))
        await self._ended_or(self._health.wait_until_ready())
        listening = running.listening
        log.info("ready: devpi-server %s serves on %s", plan.configured.version, ", ".join(listening.addresses))
        self._lifecycle.enter(Phase.READY)  # what listens for it logs what a person does next: that is the last line

    async def _launch(self, plan: Plan, after_kill: bool) -> Running:
        """Have the child become devpi-server, and wait until it listens."""
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
        self._whole = not running.is_replica  # which looks for no half-made uploads
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
        """What `other` comes to. Raises ChildEnded where devpi-server ends before it."""
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
        """Replace the process. What fails before the old one drains is refused, later it is the container's end."""
        try:
            child, configured = await self._next(plan)
        except RestartRefused as refusal:
            self._answer(refusal)
            return plan
        log.info("devpi-server is being restarted")
        self._lifecycle.enter(Phase.LAUNCHING)
        await downwards(self._features, lambda feature: feature.stopping(), PATIENCE)
        drained = await self.drain(self._settings.grace, keep_listening=True)
        if plan.child.has_ended and not drained.told:
            raise ChildEnded(await plan.child.exited())  # not by its drain
        await self._end(plan.child)
        self.serves, self._drain = False, None
        if not drained.whole:
            await to_the_end(plan.serverdir.empty_tmp)
        await self.down()
        self._processes.child = child
        await self._processes.retire(plan.child)
        plan = replace(plan, child=child, configured=replace(configured, secretfile=plan.configured.secretfile))
        await self._serve(plan, after_kill=not drained.whole)
        self._answer(None)
        return plan

    async def _next(self, plan: Plan) -> tuple[Child, Configured]:
        """Another process, which waits to serve, and what it makes of the flags. Raises RestartRefused, ChildEnded."""
        try:
            child = self._processes.start()
        except Exit as error:
            raise RestartRefused(error.reason, error.hint) from error
        taken = False
        try:
            async with asyncio.timeout(NEXT_PATIENCE):
                configured = await self._ended_or(self._boot.configure(child))
            if configured is None or _meaning(configured) != _meaning(plan.configured):
                reason = "devpi-server's flags or its configuration file mean something else than at the start"
                raise RestartRefused(reason, "restart the container to have that take effect")
            child.hand_over_lock(plan.serverdir.lock.descriptors)
            taken = True
        except ChildEnded as error:
            if self._processes.child.has_ended:
                raise
            reason = f"the process that was to take over has ended with code {error.code}"
            raise RestartRefused(reason, "see the log; devpi-server serves as before") from error
        except TimeoutError as error:
            reason = f"the process that was to take over has not come so far within {NEXT_PATIENCE:.0f} s"
            raise RestartRefused(reason, "try again when the machine is less busy") from error
        except Exit as error:
            raise RestartRefused(error.reason, error.hint) from error
        finally:
            if not taken:
                await self._processes.retire(child)
        return child, configured

    async def down(self) -> None:
        """The features hear that devpi-server has ended, if they have heard that it was there."""
        if self._up:
            self._up = False
            await downwards(self._features, lambda feature: feature.devpi_down(), PATIENCE)

    async def _drained(self, child: Child, grace: float, keep_listening: bool) -> DrainEnd:
        cut: int | None = None  # until it has told
        await child.send(Drain(grace, keep_listening))
        try:
            async with asyncio.timeout(grace + PATIENCE):
                with contextlib.suppress(ChildEnded):
                    cut = (await child.expect(Drained)).cut
                    if cut:
                        log.warning("%d transfers did not finish within the grace, and were cut", cut)
                code = await child.exited()
        except TimeoutError:
            return DrainEnd(cut is not None, whole=False)
        return DrainEnd(cut is not None, self._whole and cut == 0 and code == 0)

    async def _end(self, child: Child) -> None:
        """End one that should have ended by itself."""
        if not child.has_ended:
            child.signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.exited(), PATIENCE)
        await self._processes.end(child)

    def _answer(self, refusal: RestartRefused | None) -> None:
        """Whoever asked for a restart hears what has become of it."""
        asked, self._restart = self._restart, None
        if asked is None or asked.done():
            return
        if refusal is None:
            asked.set_result(None)
        else:
            asked.set_exception(refusal)
            asked.exception()  # looked at, should nobody wait for it any more

    def ended(self, code: int) -> NoReturn:
        """devpi-server ended by itself: its code becomes the container's. Raises Exit."""
        hint = "its own log says why"
        if code < 0:
            name, cause = signal.Signals(-code).name, ""
            if code == -signal.SIGKILL:
                cause = ", most likely for want of memory"
                hint = "raise the memory limit; the orchestrator's own record tells whether that was it"
            reason, code = f"devpi-server was ended by {name}{cause}", 128 - code
        else:
            reason, code = f"devpi-server ended by itself with code {code}", code or 1
        self._health.process_ended(reason, hint)
        raise Exit(code, reason, hint)


def _meaning(configured: Configured) -> tuple[object, ...]:
    """What another process must understand as the first one did: where the data is, where it listens, what it is."""
    return configured.serverdir, configured.storage, configured.addresses, configured.replica
