"""What the page says first: how it is, why, and what to do about it."""

from __future__ import annotations

from sidecar.checks import FAIL, NOT_RUNNING, NOT_YET, PASS, Check
from sidecar.lifecycle import ImportState, Phase, Snapshot
from sidecar.web import words

_ICONS = {
    "good": '<path d="M7 12.5l3.5 3.5L17 9"/>',
    "wait": '<path d="M12 7v5l3.5 2"/>',
    "warn": '<path d="M12 7v6M12 16.5v.5"/>',
    "bad": '<path d="M8.5 8.5l7 7M15.5 8.5l-7 7"/>',
}
_UNDER_WAY = {
    Phase.STARTING: ("Starting", "Reading the flags, locking the volume."),
    Phase.INITIALISING: ("Initialising", "An empty volume gets its first state."),
    Phase.IMPORTING: (
        "Importing",
        "devpi-server serves when it is done. Nothing is half: a stop leaves the volume empty.",
    ),
    Phase.LAUNCHING: ("Launching", "devpi-server starts."),
    Phase.STOPPING: ("Stopping", "Running transfers finish, then it ends."),
}


def headline(snapshot: Snapshot, checks: tuple[Check, ...]) -> str:
    """The tone, the title and why, and since when the phase is what it is."""
    tone, title, more = _verdict(snapshot, checks)
    since = f'<p class="since">{snapshot.phase} since {words.time(snapshot.since)}</p>'
    return (
        f'<div class="headline {tone}"><svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="10"/>'
        f"{_ICONS[tone]}</svg><div><h1>{title}</h1>{more}{since}</div></div>"
    )


def _verdict(snapshot: Snapshot, checks: tuple[Check, ...]) -> tuple[str, str, str]:
    """The tone, the title, and what there is to add."""
    if snapshot.phase is Phase.FAILED:
        failure = snapshot.failure
        before = [phase for phase, _ in snapshot.history[-2:-1]]
        if snapshot.imported.state is ImportState.FAILED and before == [Phase.IMPORTING]:
            return "bad", "Failed", "<p>The import failed: why, and what to do about it, stands below.</p>"
        return "bad", "Failed", trouble(failure.reason, failure.mend) if failure else ""
    failing = [check for check in checks if check.gates and check.status is FAIL]
    if snapshot.phase is Phase.LAUNCHING:  # devpi-server runs, and something else is in the way
        failing = [check for check in failing if check.seen]
    if snapshot.phase in _UNDER_WAY and not (snapshot.phase is Phase.LAUNCHING and failing):
        title, more = _UNDER_WAY[snapshot.phase]
        return "wait", title, f"<p>{more}</p>"
    if failing:
        failing = [check for check in failing if check.reason != NOT_RUNNING] or failing
        return "bad", "Not ready", "".join(trouble(f"{c.name}: {c.reason}", c.mend) for c in failing)
    warning = [check for check in checks if check.status is not PASS and check.reason != NOT_YET]
    if warning:
        return "warn", "Ready, with a warning", "".join(trouble(f"{c.name}: {c.reason}", c.mend) for c in warning)
    passing = all(check.status is PASS for check in checks)
    return "good", "Ready", f"<p>devpi-server serves.{' All checks pass.' if passing else ''}</p>"


def trouble(reason: str | None, mend: str | None) -> str:
    """A reason, and what can be done about it."""
    told = f"<p>{words.text(reason, 1000)}</p>"
    return f'{told}<p class="mend"><b>What to do:</b> {words.text(mend, 1000)}</p>' if mend else told
