"""Checks and verdicts."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime


class CheckStatus(enum.StrEnum):
    """The verdict of a check."""

    PASS = "pass"  # noqa: S105 - not a password
    PENDING = "pending"
    """Not checked yet. A check whose result can't be determined is not pending."""
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """The last verdict of one named check."""

    name: str
    status: CheckStatus
    since: datetime
    """Since when the check has this status."""
    gates: bool
    """Whether `/readyz` is 200 only if this passes or warns."""
    reason: str | None = None
    value: float | None = None
    unit: str | None = None
    """`seconds`, `bytes`, … if there is a value."""
    hint: str | None = None
    """What an operator can do about it."""
    meaning: str = ""
    """What it checks, in a few words for the page."""

    @property
    def blocks(self) -> bool:
        """Whether this check keeps `/readyz` from 200: it gates, and it fails or is pending."""
        return self.gates and self.status in (FAIL, PENDING)

    @property
    def seen(self) -> bool:
        """Whether the verdict comes from a probe of a running devpi-server."""
        return self.status is not PENDING and self.reason != NOT_RUNNING

    @property
    def gist(self) -> tuple[CheckStatus, str | None]:
        """Status and reason without figures, which change all the time."""
        return self.status, self.reason and _FIGURES.sub("", self.reason)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one probe; its fields are those of `Check`."""

    status: CheckStatus
    reason: str | None = None
    value: float | None = None
    unit: str | None = None
    hint: str | None = None


PASS, PENDING, WARN, FAIL = CheckStatus
BADNESS = {status: badness for badness, status in enumerate((PASS, PENDING, WARN, FAIL))}

_FIGURES = re.compile(r"\d+(?:\.\d+)?")
NOT_YET = "not checked yet"
"""The reason of a check before its first probe."""
NOT_RUNNING = "devpi-server is not running"
"""The reason of a check that would probe a devpi-server."""


def overall(checks: Iterable[Check]) -> CheckStatus:
    """Return one status for all checks: `pass` and `warn` only if no gating check fails or is pending."""
    checks = tuple(checks)
    blocking = [check.status for check in checks if check.blocks]
    others = [check.status for check in checks]
    return max(blocking or others, key=BADNESS.__getitem__, default=PASS)


def age(at: float | None, now: float) -> float | None:
    """Seconds since `at`. A time in the future counts as old: the clock was set back, so no age can be trusted."""
    return None if at is None else abs(now - at)
