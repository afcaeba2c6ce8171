"""The history of the checks over the last 15 minutes, in memory, for the page."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from sidecar.core.check import BADNESS, Check, CheckStatus

SPAN = 15.0
"""Seconds that one reading covers."""
SAMPLES = 60
"""Number of readings kept: 15 minutes."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The state of one check over `SPAN` seconds."""

    status: CheckStatus
    """The worst in that time."""
    value: float | None
    """The greatest in that time; None: no value."""
    unit: str | None = None
    """Of the value."""


@dataclass(frozen=True, slots=True)
class CheckHistory:
    """The readings of one check."""

    name: str
    samples: tuple[Reading | None, ...]
    """From the oldest to the current one; None: not checked."""


class History:
    """Readings of all checks. Lives on the event loop."""

    def __init__(self) -> None:
        self._spans: deque[tuple[int, dict[str, Reading]]] = deque(maxlen=SAMPLES)

    def see(self, at: float, checks: Iterable[Check]) -> None:
        """Record the checks as they are at `at`, in monotonic seconds."""
        number = int(at // SPAN)
        if not self._spans or self._spans[-1][0] != number:
            self._spans.append((number, {}))
        samples = self._spans[-1][1]
        for check in checks:
            before = samples.get(check.name)
            if before is None:
                samples[check.name] = Reading(check.status, check.value, check.unit)
            elif BADNESS[check.status] > BADNESS[before.status] or _greater(check.value, before.value):
                status = max(before.status, check.status, key=BADNESS.__getitem__)
                of = check if _greater(check.value, before.value) else before
                samples[check.name] = Reading(status, of.value, of.unit)

    def of(self, name: str) -> CheckHistory:
        """The history of one check, up to the latest sample of all checks."""
        if not self._spans:
            return CheckHistory(name, ())
        last = self._spans[-1][0]
        samples: list[Reading | None] = [None] * SAMPLES
        for number, found in self._spans:
            if last - number < SAMPLES:
                samples[SAMPLES - 1 - (last - number)] = found.get(name)
        return CheckHistory(name, tuple(samples))


def _greater(one: float | None, other: float | None) -> bool:
    return one is not None and (other is None or one > other)
