"""The exceptions of `claims` and `rotation`: why root's password is not claimed or changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sidecar.core.errors import OperatorError
from sidecar.core.lifecycle import Phase


@dataclass(eq=False)
class NotYet(Exception):
    """Not possible now; retry after `retry_after` seconds."""

    reason: str
    retry_after: float


@dataclass(eq=False)
class NotRunning(Exception):
    """devpi-server does not run, and a retry does not help."""

    reason: str


def not_running(phase: Phase) -> NotYet | NotRunning:
    """Return the exception for a phase in which devpi-server does not run."""
    if phase is Phase.FAILED:
        return NotRunning("the container failed: see /status, fix the cause, and restart")
    if phase is Phase.STOPPING:
        return NotRunning("the container is stopping")
    return NotYet(f"devpi-server does not run yet ({phase})", 2)


class CannotRotate(OperatorError):
    """The password could not be changed, and is unchanged."""


@dataclass(eq=False)
class NothingToClaim(Exception):
    """No password was generated; `reason` says whose it is."""

    reason: str


@dataclass(eq=False)
class AlreadyClaimed(Exception):
    """The password was claimed `at` an earlier time, from `address`."""

    at: datetime
    address: str | None


@dataclass(eq=False)
class Expired(Exception):
    """The unclaimed password expired `at` that time and was deleted: only a rotation helps."""

    at: datetime


@dataclass(eq=False)
class Superseded(Exception):
    """root's password was changed by other means, so the generated one is invalid: only a rotation helps."""
