"""Why root's password is not claimed or changed: what `claims` and `rotation` raise."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sidecar.core.errors import OperatorError
from sidecar.core.lifecycle import Phase


@dataclass(eq=False)
class NotYet(Exception):
    """Not possible at this moment; worth another try after `retry_after` seconds."""

    reason: str
    retry_after: float


@dataclass(eq=False)
class NotRunning(Exception):
    """devpi-server does not run, and waiting does not help."""

    reason: str


def not_running(phase: Phase) -> NotYet | NotRunning:
    """Why nothing can be done in this phase, in which devpi-server does not run."""
    if phase is Phase.FAILED:
        return NotRunning("it failed: see /status, fix that, and restart")
    if phase is Phase.STOPPING:
        return NotRunning("it is being stopped")
    return NotYet(f"devpi-server does not run yet ({phase})", 2)


class CannotRotate(OperatorError):
    """The password could not be changed, and is what it was before."""


@dataclass(eq=False)
class NothingToClaim(Exception):
    """No password was generated; `reason` says whose it is."""

    reason: str


@dataclass(eq=False)
class AlreadyClaimed(Exception):
    """Somebody was there before, `at` that time, from `address`."""

    at: datetime
    address: str | None


@dataclass(eq=False)
class Expired(Exception):
    """Nobody claimed the password until `at`, and it is gone: only rotating helps."""

    at: datetime


@dataclass(eq=False)
class Superseded(Exception):
    """root's password was changed in another way, so the generated one is worthless: only rotating helps."""
