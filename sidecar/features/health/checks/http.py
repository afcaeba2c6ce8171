"""`http`: devpi-server answers. Distinguishes busy from broken."""

from __future__ import annotations

from sidecar.core.check import FAIL, PASS, PENDING, WARN, Verdict
from sidecar.core.lifecycle import Phase

LAUNCHING = f"{Phase.LAUNCHING}: "
"""The reasons of a check begin with this while devpi-server starts."""
LAUNCH_PATIENCE = 60.0
"""Seconds that a starting devpi-server has to answer: until then, no answer is no failure."""
SLOW_SECONDS = 1.0
"""An answer that takes longer is reported as slow."""
FAILURES = 2
"""After so many consecutive failures, a server that has answered before is reported as dead."""


class HttpJudge:
    """`http`: distinguishes busy from broken, by consecutive failures and by the time without an answer.

    devpi-server answers late while its threads are busy, and a restart would only make that worse. So a server that has
    answered before may be silent for `dead_after` seconds, and may refuse or answer nonsense once. Only a valid answer
    ends a failure. Times are seconds of a monotonic clock.
    """

    def __init__(self, dead_after: float, at: float) -> None:
        self.dead_after = dead_after
        self.answered_at: float | None = None
        self.failures = 0
        """Failures since the last valid answer."""
        self._heard_at = at
        self._dead = False

    @property
    def sound(self) -> bool:
        """Whether it has answered and has not failed since."""
        return self.answered_at is not None and self.failures == 0 and not self._dead

    def answered(self, seconds: float, at: float) -> Verdict:
        """Judge a valid answer after `seconds`."""
        self.answered_at = self._heard_at = at
        self.failures, self._dead = 0, False
        if seconds > SLOW_SECONDS:
            return Verdict(WARN, f"slow: answered after {seconds:.1f} s", round(seconds, 3), "seconds")
        return Verdict(PASS, value=round(seconds, 4), unit="seconds")

    def silent(self, what: str, at: float) -> Verdict:
        """Judge a busy server: there was `what` instead of a valid answer."""
        silence = at - self._heard_at
        if self.answered_at is None:
            reason = f"{LAUNCHING}{what} for {silence:.0f} s"
            if silence < LAUNCH_PATIENCE:
                return Verdict(PENDING, reason)
            return Verdict(FAIL, reason, round(silence, 1), "seconds")
        if self._dead or silence >= self.dead_after:
            self._dead = True
            return Verdict(FAIL, f"dead: {what} for {silence:.0f} s", round(silence, 1), "seconds")
        return Verdict(WARN, f"slow: {what} for {silence:.0f} s", round(silence, 1), "seconds")

    def failed(self, reason: str) -> Verdict:
        """Judge a failed connection or an invalid answer: the server is broken if that happens again."""
        self.failures += 1
        if self.answered_at is None:
            return Verdict(FAIL, f"{LAUNCHING}{reason}")
        if self._dead or self.failures >= FAILURES:
            self._dead = True
            return Verdict(FAIL, reason)
        return Verdict(WARN, f"{reason}, once so far")
