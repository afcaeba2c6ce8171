"""The monitor that keeps the named checks fresh, so that probes are answered from memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta

from sidecar.core.advice import ROTATE
from sidecar.core.lifecycle import Lifecycle, Phase, Snapshot, now
from sidecar.core.settings import MonitorSettings
from sidecar.devpi.server_status import ServerStatus
from sidecar.features.health.checks.http import LAUNCH_PATIENCE
from sidecar.features.health.checks.process_lives import judge_process
from sidecar.features.health.checks.root_has_one import judge_root_password
from sidecar.features.health.checks.verdict import FAIL, NOT_RUNNING, PENDING, WARN, Check, CheckStatus, Verdict
from sidecar.features.health.history import CheckHistory, History
from sidecar.features.health.results import Results
from sidecar.features.health.schedule import HEARTBEAT, period
from sidecar.features.health.target import Serving, Target

__all__ = ["GATING", "WARNING", "Check", "CheckStatus", "Health", "Serving"]

log = logging.getLogger(__name__)

GATING = ("process", "http", "write", "lock", "root-password", "replication")
"""The checks that gate `/readyz`."""
WARNING = ("disk", "events")
"""The checks that only warn."""
_PROBED = ("http", "write", "lock", "replication", *WARNING)
"""The checks whose verdicts come of looking at a devpi-server that runs."""


class Health:
    """All checks, and the eternal task that keeps them fresh. Lives on the event loop; not thread-safe."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        settings: MonitorSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` gives seconds that never go back."""
        self._lifecycle = lifecycle
        self._settings = settings
        self._clock = clock
        self._ticked = clock()
        self._over = False
        self._wake = asyncio.Event()
        self._ready = asyncio.Event()
        self._results = Results(GATING, WARNING)
        self._history = History()
        self._listeners: list[Callable[[], None]] = []
        self._probes: dict[str, tuple[asyncio.Task[None], float]] = {}
        """Looks under way, each with its start."""
        self._due: dict[str, float] = {}
        """When to look next; absent: at once."""
        self._target: Target | None = None
        self._ended: Verdict | None = None
        self._unready_since: float | None = None
        self._judge_process()
        lifecycle.subscribe(self._lived)

    def checks(self) -> tuple[Check, ...]:
        """All checks, from memory; the gating ones fail as stale once the monitor is three intervals late."""
        late = self._clock() - self._ticked
        allowed = 3 * self._settings.interval
        if late <= allowed or not self._serves():
            return self._results.checks
        since = now() - timedelta(seconds=late - allowed)
        reason = f"stale: the monitor has not probed for {late:.0f} s"
        return tuple(
            Check(check.name, FAIL, since if check.status is not FAIL else check.since, True, reason)
            if check.gates
            else check
            for check in self._results.checks
        )

    def verdict(self, exclude: frozenset[str] = frozenset()) -> tuple[Check, ...]:
        """The gating checks that fail or are pending, without those named in `exclude`; empty: ready."""
        return tuple(c for c in self.checks() if c.blocks and c.name not in exclude)

    def history(self) -> tuple[CheckHistory, ...]:
        """What each check was like in the last quarter of an hour, from memory."""
        return tuple(self._history.of(check.name) for check in self._results.checks)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener()` at every tick: at least once a second, and after each look; it must not block."""
        self._listeners.append(listener)

    def server_status(self) -> ServerStatus | None:
        """What devpi-server said of itself last, from memory; None: nothing yet."""
        return None if self._target is None else self._target.status

    def turns(self) -> Mapping[str, int]:
        """How often this became `ready` and `not_ready`."""
        return self._results.turns

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
        self._ended = None
        self._ready.clear()
        if serving is None:
            self._give_up_probes()
        else:
            for name in _PROBED:
                self._results.await_probe(name)
        if self._target is not None and not self._target.replica:
            self._see("replication", self._target.replication())
        self._judge_process()
        self.probe_now()

    def process_ended(self, reason: str, hint: str | None = None) -> None:
        """devpi-server has ended: `process` fails at once, and nothing else is known, until the next `probe()`."""
        self._ended = Verdict(FAIL, reason, hint=hint)
        self._cancel_probes()
        self._judge_process()
        self._give_up_probes()
        self._wake.set()

    def set_root_password(self, state: str, allowed: bool, rotate: str | None = ROTATE) -> None:
        """What root's password is, as the child says; whether the settings allow an empty one; how to set another."""
        self._see("root-password", judge_root_password(state, allowed, rotate))

    def probe_now(self) -> None:
        """Look at everything at once instead of at the next interval."""
        self._due.clear()
        self._wake.set()

    async def wait_until_ready(self) -> None:
        """Return once no gating check fails and the phase is one that serves; anew after each `probe()`."""
        await self._ready.wait()

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
                    if self._serves():
                        self._history.see(self._ticked, (c for c in self._results.checks if c.seen))
                    for listener in self._listeners:
                        listener()
                except Exception:
                    log.exception("internal error of the monitor")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause()):
                        await self._wake.wait()
        finally:
            self._over = True
            await asyncio.gather(*self._cancel_probes(), return_exceptions=True)

    # --- what to look at, and when --------------------------------------------------------------------------

    def _serves(self) -> bool:
        """Whether there is something to look at."""
        return self._target is not None and self._lifecycle.snapshot.phase in {Phase.LAUNCHING, Phase.READY}

    def _probes_on(self) -> bool:
        """Whether looking is of use: what has ended doesn't come back."""
        return self._ended is None and self._serves()

    def _give_up_probes(self) -> None:
        """There is no devpi-server to look at."""
        for name in _PROBED:
            self._results.give_up(name, NOT_RUNNING)

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
            self._see("replication", target.replication(), expected=self._launching(target))
        for kind, name in (("volume", "write"), ("lock", "lock")):
            if kind in self._probes and (waited := at - self._probes[kind][1]) > self._settings.dead_after:
                self._see(name, Verdict(FAIL, f"the volume has not answered for {waited:.0f} s"))
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
        return not self._ready.is_set() and self._clock() - target.began < LAUNCH_PATIENCE

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
                self._see(name, verdict, expected=expected)
        except Exception:
            log.exception("internal error while looking at %s", kind)
            failed = {"http": "http", "volume": "write", "lock": "lock", "status": "events"}[kind]
            self._see(failed, Verdict(WARN if failed in WARNING else FAIL, "internal error"))
        self._probes.pop(kind, None)
        usual = period(
            kind,
            target,
            self._settings.interval,
            launching=self._launching(target),
            unwritable=self._results.status("write") is FAIL,
        )
        self._due[kind] = started + target.backed_off(kind, usual)
        self._wake.set()

    # --- seeing ---------------------------------------------------------------------------------------------

    def _see(self, name: str, verdict: Verdict, *, expected: bool = False) -> None:
        self._results.see(name, verdict, expected=expected)
        if not self._ready.is_set() and self._serves() and not self._results.blocked():
            self._ready.set()
        self._tell_readiness()

    def _tell_readiness(self) -> None:
        """A line in the log when a container that was ready no longer is, and when it is again."""
        if self._lifecycle.snapshot.phase is not Phase.READY or self._results.blocked() == (
            self._unready_since is not None
        ):
            return
        if self._unready_since is None:
            self._unready_since = self._clock()
            blocking = ", ".join(check.name for check in self._results.checks if check.blocks)
            log.warning("not ready any more: %s", blocking)
        else:
            log.info("ready again after %.1f s", self._clock() - self._unready_since)
            self._unready_since = None

    def _lived(self, before: Snapshot, after: Snapshot) -> None:
        self._judge_process()
        if before.phase is not after.phase:
            if not self._serves():
                self._cancel_probes()
            if after.phase in {Phase.FAILED, Phase.STOPPING}:  # what was not looked at will never be
                self._results.drop_hint("root-password")  # nobody takes a new one any more
                for check in self._results.checks:
                    if check.status is PENDING:
                        self._results.give_up(check.name, NOT_RUNNING)
            self._wake.set()

    def _judge_process(self) -> None:
        snapshot = self._lifecycle.snapshot
        verdict = judge_process(snapshot, started=self._target is not None, ended=self._ended)
        self._see("process", verdict, expected=self._ended is None)  # whoever enters FAILED logs why
