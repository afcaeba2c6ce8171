"""The feature `health`: keeps devpi-server's checks fresh, so that probes are answered from memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from sidecar.core.board import Board
from sidecar.core.check import FAIL, NOT_RUNNING, PENDING, WARN, Verdict
from sidecar.core.lifecycle import Lifecycle, Phase, Snapshot
from sidecar.core.sample import Family
from sidecar.core.settings import MonitorSettings
from sidecar.devpi.client import DevpiClient
from sidecar.devpi.protocol import PROBE_HEADER, Message, PrimaryAnswered, Serve
from sidecar.devpi.server_status import ServerStatus
from sidecar.features.health import check_metrics, server_metrics
from sidecar.features.health.checks.http import LAUNCH_PATIENCE
from sidecar.features.health.checks.meanings import GATING, WARNING
from sidecar.features.health.checks.process_lives import judge_process
from sidecar.features.health.readiness import Readiness
from sidecar.features.health.schedule import HEARTBEAT, period
from sidecar.features.health.target import Serving, Target
from sidecar.features.hooks import Hooks, Plan, Running

log = logging.getLogger(__name__)

_PROBED = ("http", "write", "lock", "replication", *WARNING)
"""The checks that probe a running devpi-server."""


class Health(Hooks):
    """devpi-server's checks, and the task that keeps them fresh. Lives on the event loop."""

    name = "health"

    def __init__(
        self,
        lifecycle: Lifecycle,
        board: Board,
        settings: MonitorSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` returns seconds that never go back."""
        self._lifecycle = lifecycle
        self._board = board
        self._settings = settings
        self._clock = clock
        self._ticked = clock()
        self._over = False
        self._wake = asyncio.Event()
        self._secret = secrets.token_hex(16)
        """Marks the sidecar's own requests."""
        self._client: DevpiClient | None = None
        self._primary = PrimaryAnswered()
        self._probes: dict[str, tuple[asyncio.Task[None], float]] = {}
        """Running probes, each with its start."""
        self._due: dict[str, float] = {}
        """The time of the next probe of each kind; absent: at once."""
        self._target: Target | None = None
        self._draining = False
        self._ended: Verdict | None = None
        self._readiness = Readiness(lifecycle, board, self._serves, clock)
        for name, meaning in GATING.items():
            board.declare(name, meaning, gates=True)
        for name, meaning in WARNING.items():
            board.declare(name, meaning, gates=False)
        self._judge_process()
        lifecycle.subscribe(self._lived)

    # --- the seam -------------------------------------------------------------------------------------------

    async def launching(self, serve: Serve, _plan: Plan) -> Serve:
        """Pass on the secret of the sidecar's own requests."""
        self._primary = PrimaryAnswered()
        return replace(serve, probe_secret=self._secret)

    def hear(self, message: Message) -> None:
        """Take the last answer of a replica's primary."""
        if isinstance(message, PrimaryAnswered):
            self._primary = message

    async def devpi_up(self, running: Running) -> None:
        """Probe it from now on."""
        child, listening, serverdir = running.child, running.listening, running.serverdir
        headers = {PROBE_HEADER: self._secret}
        self._client = DevpiClient(listening.addresses[0], self._settings.request_timeout, headers)
        lost, primary = serverdir.lock.lost, lambda: self._primary
        self.probe(Serving(child.pid, self._client, serverdir.path, listening.uuid, listening.role, lost, primary))

    async def stopping(self) -> None:
        """Stop probing: a draining devpi-server may refuse and exit at any moment."""
        self._draining = True
        self._cancel_probes()
        self._judge_process()

    async def devpi_down(self) -> None:
        """Stop probing."""
        self.probe(None)
        if self._client is not None:
            await self._client.close()
            self._client = None

    def samples(self) -> Iterable[Family]:
        """Return the checks, readiness, the monitor's age, and devpi-server's own figures as metrics."""
        status = self.server_status() or ServerStatus()
        yield from check_metrics.families(self._board, self.age())
        at = None if self._target is None else self._target.status_at
        yield from server_metrics.server(self._lifecycle.snapshot.devpi, status, at)
        yield from server_metrics.replication(status)

    async def run(self) -> None:
        """Probe at each interval until cancelled."""
        try:
            while True:
                late = self._clock() - self._ticked
                if late > 3 * max(self._settings.interval, HEARTBEAT):
                    log.warning("the monitor is late: its last probe was %.1f s ago", late)
                self._ticked = self._clock()
                self._wake.clear()
                try:
                    self._tick()
                    self._board.tick(looked=self._serves())
                except Exception:
                    log.exception("internal error of the monitor")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause()):
                        await self._wake.wait()
        finally:
            self._over = True
            await asyncio.gather(*self._cancel_probes(), return_exceptions=True)

    # --- what others ask ------------------------------------------------------------------------------------

    def server_status(self) -> ServerStatus | None:
        """Return the last `+status`, from memory; None: none yet."""
        return None if self._target is None else self._target.status

    def target(self) -> Target | None:
        """Return what is known of the probed devpi-server; None: none is probed."""
        return self._target

    def age(self) -> float:
        """Return the seconds since the monitor's last tick; infinite once it has ended."""
        return math.inf if self._over else self._clock() - self._ticked

    def probe(self, serving: Serving | None) -> None:
        """Probe `serving` from now on; None: devpi-server isn't running."""
        self._cancel_probes()
        self._target = None if serving is None else Target(serving, self._settings, self._clock)
        self._draining = False
        if serving is not None:  # otherwise `process` keeps its failure
            self._ended = None
        self._readiness.begin()
        self._judge_staleness()
        if serving is None:
            self._give_up_probes()
        else:
            for name in _PROBED:
                self._board.await_probe(name)
        if self._target is not None and not self._target.replica:
            self._board.push("replication", self._target.replication())
        self._judge_process()
        self.probe_now()

    def process_ended(self, reason: str, hint: str | None = None) -> None:
        """Make `process` fail at once, and all else unknown, until the next `probe()`: devpi-server has exited."""
        self._ended = Verdict(FAIL, reason, hint=hint)
        self._cancel_probes()
        self._judge_process()
        self._give_up_probes()
        self._wake.set()

    def probe_now(self) -> None:
        """Probe everything at once instead of at the next interval."""
        self._due.clear()
        self._wake.set()

    async def wait_until_ready(self) -> None:
        """Return once no gating check fails and the phase serves; starts again with each `probe()`."""
        await self._readiness.wait()

    # --- what to probe, and when ----------------------------------------------------------------------------

    def _serves(self) -> bool:
        """Whether there is a devpi-server to probe."""
        return self._target is not None and self._lifecycle.snapshot.phase in {Phase.LAUNCHING, Phase.READY}

    def _probes_on(self) -> bool:
        """Whether to probe it: not if it has exited, or is about to."""
        return self._ended is None and not self._draining and self._serves()

    def _give_up_probes(self) -> None:
        """Give up the checks that probe, because no devpi-server runs."""
        for name in _PROBED:
            self._board.give_up(name, NOT_RUNNING)

    def _tick(self) -> None:
        """Start the probes that are due; judge what time alone changes."""
        target = self._target
        if target is None or not self._probes_on():
            return
        at = self._clock()
        if not target.alive():
            self.process_ended("devpi-server has exited")
            return
        if target.replica:
            self._board.push("replication", target.replication(), expected=self._launching(target))
        for kind, name in (("volume", "write"), ("lock", "lock")):
            if kind in self._probes and (waited := at - self._probes[kind][1]) > self._settings.dead_after:
                self._board.push(name, Verdict(FAIL, f"the volume has not answered for {waited:.0f} s"))
        for kind in self._wanted(target):
            if self._due.get(kind, at) <= at:
                probe = asyncio.create_task(self._probe(kind, target), name=f"probe of {kind}")
                self._probes[kind] = probe, at

    def _wanted(self, target: Target) -> Iterator[str]:
        """Return the kinds of probe that may start as soon as they are due."""
        for kind in ("http", "volume", "lock"):
            if kind not in self._probes:
                yield kind
        # +status is expensive for devpi, so it isn't requested while +api fails or is slow
        if "status" not in self._probes and target.answers.sound:
            yield "status"

    def _pause(self) -> float:
        """Return the seconds until the next tick."""
        pause = min(self._settings.interval, HEARTBEAT)
        if self._target is not None and self._probes_on():
            at = self._clock()
            pause = min([pause, *(self._due.get(kind, at) - at for kind in self._wanted(self._target))])
        return max(pause, 0.001)

    def _launching(self, target: Target) -> bool:
        return not self._readiness.reached and self._clock() - target.began < LAUNCH_PATIENCE

    def _cancel_probes(self) -> list[asyncio.Task[None]]:
        tasks = [task for task, _ in self._probes.values()]
        self._probes.clear()
        for task in tasks:
            task.cancel()
        return tasks

    async def _probe(self, kind: str, target: Target) -> None:
        """Run one probe. A cancelled one changes nothing: `probe()` has replaced the target."""
        started = self._clock()
        expected = kind not in ("volume", "lock") and self._launching(target)
        probes = {
            "http": target.probe_http,
            "volume": target.probe_volume,
            "lock": target.probe_lock,
            "status": target.probe_status,
        }
        try:
            for name, verdict in (await probes[kind]()).items():
                self._board.push(name, verdict, expected=expected)
        except Exception:
            log.exception("internal error while probing %s", kind)
            failed = {"http": "http", "volume": "write", "lock": "lock", "status": "events"}[kind]
            self._board.push(failed, Verdict(WARN if failed in WARNING else FAIL, "internal error"))
        self._probes.pop(kind, None)
        usual = period(
            kind,
            target,
            self._settings.interval,
            launching=self._launching(target),
            unwritable=self._board.status("write") is FAIL,
        )
        self._due[kind] = started + target.backed_off(kind, usual)
        self._wake.set()

    # --- judging --------------------------------------------------------------------------------------------

    def _lived(self, before: Snapshot, after: Snapshot) -> None:
        self._judge_process()
        if before.phase is not after.phase:
            self._judge_staleness()
            if not self._serves():
                self._cancel_probes()
            if after.phase in {Phase.FAILED, Phase.STOPPING}:  # what was not probed will never be
                for check in self._board.checks():
                    if check.status is PENDING:
                        self._board.give_up(check.name, NOT_RUNNING)
            self._wake.set()

    def _judge_staleness(self) -> None:
        """Let verdicts become stale only while a devpi-server is probed."""
        self._board.stale_after = 3 * self._settings.interval if self._serves() else None

    def _judge_process(self) -> None:
        snapshot, started = self._lifecycle.snapshot, self._target is not None
        verdict = judge_process(snapshot, started=started, ended=self._ended, draining=self._draining)
        expected = self._ended is None  # the code that enters FAILED logs the reason
        self._board.push("process", verdict, expected=expected)
