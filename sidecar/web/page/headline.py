"""What the page says first: how it is, why, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.core.check import FAIL, NOT_RUNNING, PASS, WARN, Check
from sidecar.core.lifecycle import Phase, Snapshot
from sidecar.core.surroundings import Surroundings
from sidecar.features.bootstrap.import_status import ImportState, ImportStatus
from sidecar.web.page import words
from sidecar.web.page.failure import failure

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
        "devpi-server serves when it is done. Stopping now is safe: the volume stays empty.",
    ),
    Phase.LAUNCHING: ("Launching", "devpi-server starts."),
    Phase.STOPPING: ("Stopping", "Running transfers finish, then it ends."),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """How it is, in a word, and why."""

    tone: str
    title: str
    more: str
    """What there is to add, as HTML."""
    checks: tuple[str, ...] = ()
    """The names of those that it is about."""


def headline(snapshot: Snapshot, checks: tuple[Check, ...], imported: ImportStatus, around: Surroundings) -> str:
    """The verdict and why, and since when the phase is what it is."""
    found = verdict(snapshot, checks, imported, around)
    since = f'<p class="since">{snapshot.phase} since {words.time(snapshot.since)}</p>'
    return (
        f'<div class="headline {found.tone}"><svg viewBox="0 0 24 24" aria-hidden="true">'
        f'<circle cx="12" cy="12" r="10"/>{_ICONS[found.tone]}</svg>'
        f"<div><h1>{found.title}</h1>{found.more}{since}</div></div>"
    )


def spoken(snapshot: Snapshot, checks: tuple[Check, ...], imported: ImportStatus) -> str:
    """The verdict for who hears the page: no figures, or it would be read out again with each."""
    found = verdict(snapshot, checks, imported)
    return ": ".join(filter(None, [found.title, ", ".join(found.checks)]))


def verdict(
    snapshot: Snapshot, checks: tuple[Check, ...], imported: ImportStatus, around: Surroundings | None = None
) -> Verdict:
    """How it is; `around`: where a failed one is restarted."""
    if snapshot.phase is Phase.FAILED:
        return _failed(snapshot, imported, around)
    failing = [check for check in checks if check.gates and check.status is FAIL]
    if snapshot.phase is Phase.LAUNCHING:  # devpi-server runs, and something else is in the way
        failing = [check for check in failing if check.seen]
    if snapshot.phase in _UNDER_WAY and not (snapshot.phase is Phase.LAUNCHING and failing):
        title, more = _UNDER_WAY[snapshot.phase]
        return Verdict("wait", title, f"<p>{more}</p>")
    if failing:
        return _about("bad", "Not ready", [c for c in failing if c.reason != NOT_RUNNING] or failing)
    if pending := [check for check in checks if check.blocks]:
        return _about("wait", "Not ready yet", pending)
    if warning := [check for check in checks if check.status in (WARN, FAIL)]:
        return _about("warn", "Ready, with a warning", warning)
    passing = all(check.status is PASS for check in checks)
    return Verdict("good", "Ready", f"<p>devpi-server serves.{' All checks pass.' if passing else ''}</p>")


def _failed(snapshot: Snapshot, imported: ImportStatus, around: Surroundings | None) -> Verdict:
    before = [phase for phase, _ in snapshot.history[-2:-1]]
    if imported.state is ImportState.FAILED and imported.error and before in ([Phase.STARTING], [Phase.IMPORTING]):
        return Verdict("bad", "The import failed", failure(imported.error, around or Surroundings("")))
    more = trouble(snapshot.failure.reason, snapshot.failure.hint) if snapshot.failure else ""
    return Verdict("bad", "Failed", more)


def _about(tone: str, title: str, checks: list[Check]) -> Verdict:
    more = "".join(trouble(f"{check.name}: {check.reason}", check.hint) for check in checks)
    return Verdict(tone, title, more, tuple(check.name for check in checks))


def trouble(reason: str | None, hint: str | None) -> str:
    """A reason, and what can be done about it."""
    told = f"<p>{words.with_code(reason or '', 1000)}</p>"
    return f'{told}<p class="what-to-do"><b>What to do:</b> {words.with_code(hint, 1000)}</p>' if hint else told
