"""The monitor that keeps devpi-server's checks fresh, so that probes are answered from memory."""

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
"""The checks whose verdicts come of looking at a devpi-server that runs."""


class Health(Hooks):
    """The feature `health`: devpi-server's checks, and the task that keeps them fresh. Lives on the event loop."""

    name = "health"

    def __init__(
        self,
        lifecycle: Lifecycle,
        board: Board,
        settings: MonitorSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` gives seconds that never go back."""
        self._lifecycle = lifecycle
        self._board = board
        self._settings = settings
        self._clock = clock
        self._ticked = clock()
        self._over = False
        self._wake = asyncio.Event()
        self._secret = secrets.token_hex(16)
        """By which devpi-server knows our own requests."""
        self._client: DevpiClient | None = None
        self._primary = PrimaryAnswered()
        self._probes: dict[str, tuple[asyncio.Task[None], float]] = {}
        """Looks under way, each with its start."""
        self._due: dict[str, float] = {}
        """When to look next; absent: at once."""
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
        """The sidecar's own requests carry a secret."""
        self._primary = PrimaryAnswered()
        return replace(serve, probe_secret=self._secret)

    def hear(self, message: Message) -> None:
        """What a replica's primary has answered it last."""
        if isinstance(message, PrimaryAnswered):
            self._primary = message

    async def devpi_up(self, running: Running) -> None:
        """Look at it from now on."""
        child, listening, serverdir = running.child, running.listening, running.serverdir
        headers = {PROBE_HEADER: self._secret}
        self._client = DevpiClient(listening.addresses[0], self._settings.request_timeout, headers)
        lost, primary = serverdir.lock.lost, lambda: self._primary
        self.probe(Serving(child.pid, self._client, serverdir.path, listening.uuid, listening.role, lost, primary))

    async def stopping(self) -> None:
        """What drains is not looked at: it may refuse, and end, at any moment."""
        self._draining = True
        self._cancel_probes()
        self._judge_process()

    async def devpi_down(self) -> None:
        """There is nothing to look at any more."""
        self.probe(None)
        if self._client is not None:
            await self._client.close()
            self._client = None

    def samples(self) -> Iterable[Family]:
        """The checks, readiness, whether somebody looks, and what devpi-server has told of itself."""
        status = self.server_status() or ServerStatus()
        yield from check_metrics.families(self._board, self.age())
        at = None if self._target is None else self._target.status_at
        yield from server_metrics.server(self._lifecycle.snapshot.devpi, status, at)
        yield from server_metrics.replication(status)

    async def run(self) -> None:
        """The eternal task: look, every interval, until cancelled."""
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
        """What devpi-server said of itself last, from memory; None: nothing yet."""
        return None if self._target is None else self._target.status

    def target(self) -> Target | None:
        """All that is known of the devpi-server that is looked at; None: there is none."""
        return self._target

    def age(self) -> float:
        """Seconds since the monitor's last tick; infinite once it has ended."""
        return math.inf if self._over else self._clock() - self._ticked

    def probe(self, serving: Serving | None) -> None:
        """Look at `serving` from now on; None: devpi-server isn't running."""
        self._cancel_probes()
        self._target = None if serving is None else Target(serving, self._settings, self._clock)
        self._draining = False
        if serving is not None:  # else what has ended stays so
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
        """devpi-server has ended: `process` fails at once, and nothing else is known, until the next `probe()`."""
        self._ended = Verdict(FAIL, reason, hint=hint)
        self._cancel_probes()
        self._judge_process()
        self._give_up_probes()
        self._wake.set()

    def probe_now(self) -> None:
        """Look at everything at once instead of at the next interval."""
        self._due.clear()
        self._wake.set()

    async def wait_until_ready(self) -> None:
        """Return once no gating check fails and the phase is one that serves; anew after each `probe()`."""
        await self._readiness.wait()

    # --- what to look at, and when --------------------------------------------------------------------------

    def _serves(self) -> bool:
        """Whether there is something to look at."""
        return self._target is not None and self._lifecycle.snapshot.phase in {Phase.LAUNCHING, Phase.READY}

    def _probes_on(self) -> bool:
        """Whether looking is of use: what has ended, or is about to, doesn't come back."""
        return self._ended is None and not self._draining and self._serves()

    def _give_up_probes(self) -> None:
        """There is no devpi-server to look at."""
        for name in _PROBED:
            self._board.give_up(name, NOT_RUNNING)

    def _tick(self) -> None:
        """Start the looks that are due; judge what time alone changes."""
        target = self._target
        if target is None or not self._probes_on():
            return
        at = self._clock()
        if not target.alive():
            self.process_ended("devpi-server is gone")
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
        """The kinds of look that may start as soon as they are due."""
        for kind in ("http", "volume", "lock"):
            if kind not in self._probes:
                yield kind
        # +status costs devpi more, so it isn't asked while answering +api gives trouble already
        if "status" not in self._probes and target.answers.sound:
            yield "status"

    def _pause(self) -> float:
        """Seconds until the next tick."""
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
        """One probe. A cancelled one leaves no trace: `probe()` has gone on to another devpi-server."""
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
            log.exception("internal error while looking at %s", kind)
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
            if after.phase in {Phase.FAILED, Phase.STOPPING}:  # what was not looked at will never be
                for check in self._board.checks():
                    if check.status is PENDING:
                        self._board.give_up(check.name, NOT_RUNNING)
            self._wake.set()

    def _judge_staleness(self) -> None:
        """Verdicts on a devpi-server that nobody looks at don't get old."""
        self._board.stale_after = 3 * self._settings.interval if self._serves() else None

    def _judge_process(self) -> None:
        snapshot, started = self._lifecycle.snapshot, self._target is not None
        verdict = judge_process(snapshot, started=started, ended=self._ended, draining=self._draining)
        expected = self._ended is None  # whoever enters FAILED logs why
        self._board.push("process", verdict, expected=expected)
