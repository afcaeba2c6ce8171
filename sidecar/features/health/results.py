"""The checks as they stand: the last verdict on each, since when, and a word in the log when it changes."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from sidecar.core.lifecycle import now
from sidecar.features.health.checks.verdict import (
    BADNESS,
    FAIL,
    NOT_YET,
    PASS,
    PENDING,
    WARN,
    Check,
    CheckStatus,
    Verdict,
)

log = logging.getLogger("sidecar.features.health.monitor")


class Results:
    """Holds the last verdict on each check. `checks` is a snapshot, ready to be read at any time."""

    def __init__(self, gating: Iterable[str], warning: Iterable[str]) -> None:
        """All checks begin as pending; `gating` ones block readiness, `warning` ones only warn."""
        at = now()
        self._gating = tuple(gating)
        self._checks = {name: Check(name, PENDING, at, True, NOT_YET) for name in self._gating}
        self._checks |= {name: Check(name, PENDING, at, False, NOT_YET) for name in warning}
        self._unseen = set(self._checks)
        self.checks = tuple(self._checks.values())
        self.turns = {"ready": 0, "not_ready": 0}
        """How often this became ready, and how often it stopped being so."""

    def status(self, name: str) -> CheckStatus:
        """The status of a check."""
        return self._checks[name].status

    def blocked(self) -> bool:
        """Whether a gating check fails or is pending."""
        return any(self._checks[name].blocks for name in self._gating)

    def await_probe(self, name: str) -> None:
        """Make a check pending: it will be looked at. The log has no line for that."""
        self._unseen.add(name)
        self._put(name, Verdict(PENDING, NOT_YET))

    def give_up(self, name: str, reason: str) -> None:
        """Make a check fail, or warn, because nothing can be looked at. The log has no line for that."""
        self._unseen.add(name)
        self._put(name, Verdict(FAIL if self._checks[name].gates else WARN, reason))

    def drop_hint(self, name: str) -> None:
        """What was to be done about a check can't be done any more."""
        self._checks[name] = replace(self._checks[name], hint=None)
        self.checks = tuple(self._checks.values())

    def see(self, name: str, verdict: Verdict, *, expected: bool = False) -> None:
        """Take over a verdict. The log hears of a change, unless it is `expected` at this point of life."""
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

    def _put(self, name: str, verdict: Verdict) -> None:
        before, was_blocked = self._checks[name], self.blocked()
        self._checks[name] = Check(
            name,
            verdict.status,
            before.since if before.status is verdict.status else now(),
            before.gates,
            verdict.reason,
            verdict.value,
            verdict.unit,
            verdict.hint,
        )
        self.checks = tuple(self._checks.values())
        if (blocked := self.blocked()) is not was_blocked:
            self.turns["not_ready" if blocked else "ready"] += 1


def _log_worse(name: str, verdict: Verdict) -> None:
    hint = f"; {verdict.hint}" if verdict.hint else ""
    log.warning("check %s: %s: %s%s", name, verdict.status, verdict.reason, hint, extra=_extra(name, verdict))


def _extra(name: str, verdict: Verdict) -> dict[str, object]:
    """The fields of the log line, for programs."""
    return {"fields": {"sidecar.check": name, "sidecar.check_status": verdict.status.value}}
