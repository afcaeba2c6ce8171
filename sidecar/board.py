"""The checks as they stand: the last verdict on each, since when, and a word in the log when it changes."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from sidecar.checks import BADNESS, FAIL, NOT_YET, PASS, WARN, Check, CheckStatus, Verdict
from sidecar.lifecycle import now

log = logging.getLogger("sidecar.health")


class Board:
    """Holds the last verdict on each check. `checks` is a snapshot, ready to be read at any time."""

    def __init__(self, gating: Iterable[str], warning: Iterable[str]) -> None:
        """`gating` checks begin as failed, the `warning` ones as warnings: nothing was looked at yet."""
        at = now()
        self._gating = tuple(gating)
        self._checks = {name: Check(name, FAIL, at, True, NOT_YET) for name in self._gating}
        self._checks |= {name: Check(name, WARN, at, False, NOT_YET) for name in warning}
        self._unseen = set(self._checks)
        self.checks = tuple(self._checks.values())
        self.turns = {"ready": 0, "not_ready": 0}
        """How often all gating checks came to pass, and how often one of them failed again."""

    def status(self, name: str) -> CheckStatus:
        """The status of a check."""
        return self._checks[name].status

    def failing(self) -> bool:
        """Whether a gating check fails."""
        return any(self._checks[name].status is FAIL for name in self._gating)

    def forget(self, name: str, reason: str) -> None:
        """Nothing is known of a check, and that is no news for the log."""
        self._unseen.add(name)
        self._put(name, Verdict(FAIL if self._checks[name].gates else WARN, reason))

    def see(self, name: str, verdict: Verdict, *, expected: bool = False) -> None:
        """Take over a verdict. The log hears of a change, unless it is `expected` at this point of life."""
        before = self._checks[name].status
        self._put(name, verdict)
        if name in self._unseen:
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

    def _put(self, name: str, verdict: Verdict) -> None:
        before, failed = self._checks[name], self.failing()
        self._checks[name] = Check(
            name,
            verdict.status,
            before.since if before.status is verdict.status else now(),
            before.gates,
            verdict.reason,
            verdict.value,
            verdict.unit,
            verdict.mend,
        )
        self.checks = tuple(self._checks.values())
        if (fails := self.failing()) is not failed:
            self.turns["not_ready" if fails else "ready"] += 1


def _log_worse(name: str, verdict: Verdict) -> None:
    mend = f"; {verdict.mend}" if verdict.mend else ""
    log.warning("check %s: %s: %s%s", name, verdict.status, verdict.reason, mend, extra=_extra(name, verdict))


def _extra(name: str, verdict: Verdict) -> dict[str, object]:
    """The fields of the log line, for programs."""
    return {"fields": {"sidecar.check": name, "sidecar.check_status": verdict.status.value}}
