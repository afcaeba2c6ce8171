"""The board: the last verdict on each check. Features push verdicts, everybody else reads them from memory.

From the pushes the board derives since when a check has its status, whether to log a change, and when verdicts are
stale.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from sidecar.core.check import BADNESS, FAIL, NOT_YET, PASS, PENDING, WARN, Check, CheckStatus, Verdict
from sidecar.core.history import CheckHistory, History
from sidecar.core.lifecycle import now

log = logging.getLogger(__name__)


class Board:
    """All checks, their recent history, and their listeners. Lives on the event loop."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns monotonic seconds."""
        self.turns = {"ready": 0, "not_ready": 0}
        """How often this became ready, and how often not ready."""
        self.stale_after: float | None = None
        """Seconds without a tick after which the gating checks fail as stale; None: never."""
        self._clock = clock
        self._ticked = clock()
        self._checks: dict[str, Check] = {}
        """The gating ones first."""
        self._snapshot: tuple[Check, ...] = ()
        self._unseen: set[str] = set()
        self._history = History()
        self._on_push: list[Callable[[], None]] = []
        self._on_tick: list[Callable[[], None]] = []
        self._on_change: list[Callable[[], None]] = []

    def declare(self, name: str, meaning: str, *, gates: bool) -> None:
        """Add a check, pending at first. With `gates` it blocks readiness, otherwise it only warns.

        `meaning`: what it checks, in a few words. Raises ValueError for a duplicate name.
        """
        if name in self._checks:
            raise ValueError(f"duplicate check {name}")
        self._checks[name] = Check(name, PENDING, now(), gates, NOT_YET, meaning=meaning)
        self._checks = dict(sorted(self._checks.items(), key=lambda item: not item[1].gates))
        self._snapshot = tuple(self._checks.values())
        self._unseen.add(name)

    # --- reading --------------------------------------------------------------------------------------------

    def checks(self) -> tuple[Check, ...]:
        """All checks, the gating ones first; these fail as stale after `stale_after` seconds without a tick."""
        late = self._clock() - self._ticked
        if self.stale_after is None or late <= self.stale_after:
            return self._snapshot
        since = now() - timedelta(seconds=late - self.stale_after)
        reason = f"stale: the monitor has not probed for {late:.0f} s"
        return tuple(_judged(check, Verdict(FAIL, reason), since) if check.gates else check for check in self._snapshot)

    def status(self, name: str) -> CheckStatus:
        """The last verdict's status, stale or not."""
        return self._checks[name].status

    def blocking(self) -> tuple[Check, ...]:
        """The gating checks whose last verdict fails or is pending; empty: ready."""
        return tuple(check for check in self._snapshot if check.blocks)

    def history(self) -> tuple[CheckHistory, ...]:
        """The history of each check over the last 15 minutes, in the order of `checks`."""
        return tuple(self._history.of(check.name) for check in self._snapshot)

    # --- pushing --------------------------------------------------------------------------------------------

    def push(self, name: str, verdict: Verdict, *, expected: bool = False) -> None:
        """Store a verdict, and log a change; an `expected` one never as a warning."""
        before = self._checks[name].status
        self._put(name, verdict)
        if verdict.status is PENDING:
            self._unseen.add(name)
        elif name in self._unseen:
            if verdict.status is PASS or not expected:
                self._unseen.discard(name)
            if verdict.status is not PASS and not expected:
                _log_worse(name, verdict)
        elif BADNESS[verdict.status] > BADNESS[before]:
            if expected:
                log.info("check %s: %s: %s", name, verdict.status, verdict.reason, extra=_extra(name, verdict))
            else:
                _log_worse(name, verdict)
        elif verdict.status is not before:
            reason = f": {verdict.reason}" if verdict.reason else ""
            log.info("check %s: %s again%s", name, verdict.status, reason, extra=_extra(name, verdict))
        for listener in self._on_push:
            listener()

    def await_probe(self, name: str) -> None:
        """Make a check pending until its next probe. Logs nothing."""
        self._unseen.add(name)
        self._put(name, Verdict(PENDING, NOT_YET))

    def give_up(self, name: str, reason: str) -> None:
        """Make a check fail, or warn if it does not gate, because it can't be probed. Logs nothing."""
        self._unseen.add(name)
        self._put(name, Verdict(FAIL if self._checks[name].gates else WARN, reason))

    def drop_hint(self, name: str) -> None:
        """Remove a check's hint, because it no longer applies."""
        self._checks[name] = replace(self._checks[name], hint=None)
        self._snapshot = tuple(self._checks.values())

    # --- listening ------------------------------------------------------------------------------------------

    def on_push(self, listener: Callable[[], None]) -> None:
        """Call `listener()` after each verdict; it must neither block nor raise."""
        self._on_push.append(listener)

    def on_tick(self, listener: Callable[[], None]) -> None:
        """Call `listener()` at every tick: at least once a second, and after each probe; it must not block."""
        self._on_tick.append(listener)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener()` when a feature's status changes; it must neither block nor raise."""
        self._on_change.append(listener)

    def tick(self, *, looked: bool) -> None:
        """Note that the monitor is alive. `looked`: it probed a devpi-server, so the verdicts go into the history."""
        self._ticked = self._clock()
        if looked:
            self._history.see(self._ticked, (check for check in self._snapshot if check.seen))
        for listener in self._on_tick:
            listener()

    def changed(self) -> None:
        """Report that a feature's status changed, apart from its checks."""
        for listener in self._on_change:
            listener()

    def _put(self, name: str, verdict: Verdict) -> None:
        before, was_blocked = self._checks[name], bool(self.blocking())
        self._checks[name] = _judged(before, verdict, now())
        self._snapshot = tuple(self._checks.values())
        if (blocked := bool(self.blocking())) is not was_blocked:
            self.turns["not_ready" if blocked else "ready"] += 1


def _judged(before: Check, verdict: Verdict, at: datetime) -> Check:
    """The check with another verdict, of the time `at`."""
    since = before.since if before.status is verdict.status else at
    status, reason, value, unit, hint = verdict.status, verdict.reason, verdict.value, verdict.unit, verdict.hint
    return replace(before, status=status, since=since, reason=reason, value=value, unit=unit, hint=hint)


def _log_worse(name: str, verdict: Verdict) -> None:
    hint = f"; {verdict.hint}" if verdict.hint else ""
    log.warning("check %s: %s: %s%s", name, verdict.status, verdict.reason, hint, extra=_extra(name, verdict))


def _extra(name: str, verdict: Verdict) -> dict[str, object]:
    """The fields of the log line, for programs."""
    return {"fields": {"sidecar.check": name, "sidecar.check_status": verdict.status.value}}
