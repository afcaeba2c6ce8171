"""The headline of the page: the state, why, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.core.check import FAIL, NOT_RUNNING, PASS, WARN, Check
from sidecar.core.lifecycle import Phase, Snapshot
from sidecar.features.bootstrap.import_status import ImportFailure, ImportState, ImportStatus

_UNDER_WAY = {
    Phase.STARTING: ("Starting", "Reading the flags and locking the volume."),
    Phase.INITIALISING: ("Initialising", "Creating the first state on an empty volume."),
    Phase.IMPORTING: (
        "Importing",
        "devpi-server starts after the import. Stopping now is safe: the volume stays empty.",
    ),
    Phase.LAUNCHING: ("Launching", "devpi-server is starting."),
    Phase.STOPPING: ("Stopping", "Running transfers finish, then the container exits."),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state in a few words, and why."""

    tone: str
    title: str
    more: str = ""
    troubles: tuple[tuple[str, str | None], ...] = ()
    """Reasons, each with its hint."""
    checks: tuple[str, ...] = ()
    """The names of the checks that it is about."""
    failed_import: ImportFailure | None = None


def verdict(snapshot: Snapshot, checks: tuple[Check, ...], imported: ImportStatus) -> Verdict:
    """Return the state."""
    if snapshot.phase is Phase.FAILED:
        return _failed(snapshot, imported)
    failing = [check for check in checks if check.gates and check.status is FAIL]
    if snapshot.phase is Phase.LAUNCHING:  # devpi-server runs, and something else is in the way
        failing = [check for check in failing if check.seen]
    if snapshot.phase in _UNDER_WAY and not (snapshot.phase is Phase.LAUNCHING and failing):
        return Verdict("wait", *_UNDER_WAY[snapshot.phase])
    if failing:
        return _about("bad", "Not ready", [c for c in failing if c.reason != NOT_RUNNING] or failing)
    if pending := [check for check in checks if check.blocks]:
        return _about("wait", "Not ready yet", pending)
    if warning := [check for check in checks if check.status in (WARN, FAIL)]:
        return _about("warn", "Ready, with a warning", warning)
    passing = all(check.status is PASS for check in checks)
    return Verdict("good", "Ready", f"devpi-server serves.{' All checks pass.' if passing else ''}")


def _failed(snapshot: Snapshot, imported: ImportStatus) -> Verdict:
    before = [phase for phase, _ in snapshot.history[-2:-1]]
    if imported.state is ImportState.FAILED and imported.error and before in ([Phase.STARTING], [Phase.IMPORTING]):
        return Verdict("bad", "The import failed", failed_import=imported.error)
    troubles = ((snapshot.failure.reason, snapshot.failure.hint),) if snapshot.failure else ()
    return Verdict("bad", "Failed", troubles=troubles)


def _about(tone: str, title: str, checks: list[Check]) -> Verdict:
    troubles = tuple((f"{check.name}: {check.reason}", check.hint) for check in checks)
    return Verdict(tone, title, troubles=troubles, checks=tuple(check.name for check in checks))
