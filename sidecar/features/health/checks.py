"""What a check is, and the rules that make a verdict of what was seen. No disk, no network here."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sidecar.core.advice import ROTATE
from sidecar.core.lifecycle import ImportStatus, Phase, Snapshot
from sidecar.devpi.protocol import UNREPLICATED, PrimaryAnswered
from sidecar.devpi.server_status import ServerStatus


class CheckStatus(enum.StrEnum):
    """The verdict of a check."""

    PASS = "pass"  # noqa: S105 - not a password
    PENDING = "pending"
    """Not looked at yet, because it is too early. What was looked at and can't be determined is not pending."""
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
    """`seconds`, `bytes`, … where there is a value."""
    mend: str | None = None
    """What an operator can do about it."""

    @property
    def blocks(self) -> bool:
        """Whether this check keeps `/readyz` from 200: it gates, and it fails or is pending."""
        return self.gates and self.status in (FAIL, PENDING)

    @property
    def seen(self) -> bool:
        """Whether the verdict is about a devpi-server that runs and was looked at."""
        return self.status is not PENDING and self.reason != NOT_RUNNING

    @property
    def gist(self) -> tuple[CheckStatus, str | None]:
        """Status and reason without figures: those run on while nothing changes."""
        return self.status, self.reason and _FIGURES.sub("", self.reason)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one look came to; its fields are those of `Check`."""

    status: CheckStatus
    reason: str | None = None
    value: float | None = None
    unit: str | None = None
    mend: str | None = None


PASS, PENDING, WARN, FAIL = CheckStatus
BADNESS = {status: badness for badness, status in enumerate((PASS, PENDING, WARN, FAIL))}

_FIGURES = re.compile(r"\d+(?:\.\d+)?")
NOT_YET = "not looked at yet"
"""The reason of a check before its first look."""
NOT_RUNNING = "devpi-server is not running"
"""The reason of a check that looks at a devpi-server which there isn't."""
LAUNCHING = f"{Phase.LAUNCHING}: "
"""The reason of a check begins with this while devpi-server starts."""
LAUNCH_PATIENCE = 60.0
"""Seconds within which a devpi-server that starts is expected to answer: until then, no answer is no failure."""
SLOW_SECONDS = 1.0
"""An answer of devpi-server that takes longer is called slow."""
FAILURES = 2
"""So many failures in a row, and a server that has answered before is called dead."""


def overall(checks: Iterable[Check]) -> CheckStatus:
    """Return one verdict on all checks: `pass` and `warn` only if no gating check fails or is pending."""
    checks = tuple(checks)
    blocking = [check.status for check in checks if check.blocks]
    others = [check.status for check in checks]
    return max(blocking or others, key=BADNESS.__getitem__, default=PASS)


def judge_process(snapshot: Snapshot, *, started: bool, ended: Verdict | None) -> Verdict:
    """`process`: devpi-server was started, has not ended, and the phase is one in which it serves.

    Before that it is pending, with the phase as the reason.
    """
    phase = snapshot.phase
    if phase is Phase.FAILED:
        if snapshot.failure is None:
            return Verdict(FAIL, "failed")
        return Verdict(FAIL, f"failed: {snapshot.failure.reason}", mend=snapshot.failure.mend)
    if phase is Phase.IMPORTING:
        return Verdict(PENDING, f"importing: {_import_progress(snapshot.imported)}")
    if phase is Phase.STOPPING:
        return Verdict(FAIL, phase.value)
    if phase in {Phase.STARTING, Phase.INITIALISING}:
        return Verdict(PENDING, phase.value)
    if ended is not None:
        return ended
    if not started:
        return Verdict(PENDING, f"{phase}: devpi-server is not started yet")
    return Verdict(PASS)


def _import_progress(imported: ImportStatus) -> str:
    files = imported.files
    return f"{files.done} of {files.total} files" if files.total else imported.state.value


def judge_root_password(state: str, allowed: bool, rotate: str | None = ROTATE) -> Verdict:
    """`root-password`: an empty one lets anybody in as root. `state` is as the child says; a replica's is not known.

    What can't be told does not pass. `allowed`: whether the settings allow an empty one. `rotate`: how to set another;
    None: not possible at this moment.
    """
    match state:
        case "set" | "unknown":
            return Verdict(PASS)
        case "unusable":
            return Verdict(
                FAIL,
                "root's password hash is one that this devpi-server can't check, so nobody can log in as root",
                mend=rotate and f"{rotate} sets a new password",
            )
        case "unchecked":
            return Verdict(
                WARN if allowed else FAIL,
                "root's password can't be checked: argon2 can't run, for lack of memory or threads",
                mend="raise the limit of memory or of processes, and restart",
            )
        case "unseen":
            return Verdict(
                WARN if allowed else FAIL,
                "root's password can't be looked at: devpi-server can't read its database",
                mend="look at devpi-server's log",
            )
    if allowed:
        return Verdict(WARN, "root's password is empty, which SIDECAR_ALLOW_EMPTY_ROOT allows")
    return Verdict(
        FAIL,
        "root's password is empty",
        mend=rotate and f"{rotate}, or SIDECAR_ALLOW_EMPTY_ROOT=true to allow it",
    )


def judge_lock(lost: str | None) -> Verdict:
    """`lock`: without it, a second server may write to the same serverdir. `lost`: why it isn't held any more."""
    if lost is None:
        return Verdict(PASS)
    return Verdict(
        FAIL,
        f"{lost}, so a second server may start on the same data",
        mend="stop this server and start it again; while a server runs, leave .sidecar in the serverdir alone",
    )


class HttpJudge:
    """`http`: tells busy from broken, by failures in a row and by how long no answer came.

    devpi-server answers late while its threads are busy, and a restart would only make that worse. So a
    server that has answered before may be silent for `dead_after` seconds; one that refuses, or answers
    nonsense, may do that once. Only an answer brings a failed one back. Times are seconds of a monotonic
    clock.
    """

    def __init__(self, dead_after: float, at: float) -> None:
        self.dead_after = dead_after
        self.answered_at: float | None = None
        self.failures = 0
        """Failures since the last answer."""
        self._heard_at = at
        self._dead = False

    @property
    def sound(self) -> bool:
        """Whether it has answered, and has not failed since."""
        return self.answered_at is not None and self.failures == 0 and not self._dead

    def answered(self, seconds: float, at: float) -> Verdict:
        """A good answer came, after `seconds`."""
        self.answered_at = self._heard_at = at
        self.failures, self._dead = 0, False
        if seconds > SLOW_SECONDS:
            return Verdict(WARN, f"slow: answered after {seconds:.1f} s", round(seconds, 3), "seconds")
        return Verdict(PASS, value=round(seconds, 4), unit="seconds")

    def silent(self, what: str, at: float) -> Verdict:
        """Busy: `what` came instead of a good answer."""
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
        """No connection, or a wrong answer: broken, if it happens again."""
        self.failures += 1
        if self.answered_at is None:
            return Verdict(FAIL, f"{LAUNCHING}{reason}")
        if self._dead or self.failures >= FAILURES:
            self._dead = True
            return Verdict(FAIL, reason)
        return Verdict(WARN, f"{reason}, once so far")


def judge_events(status: ServerStatus, now: float) -> Verdict:
    """`events`: how far devpi's event processing is behind its commits; `now` in seconds since the epoch.

    The rules are those of devpi's own status page (`devpi_server.views.devpiweb_get_status_info`), which
    `+status` doesn't tell.
    """
    if status.serial is None or status.event_serial is None:
        return Verdict(WARN, "devpi-server does not tell how far its event processing is")
    lag = status.serial - status.event_serial
    reason = _events_reason(status, now) if lag > 0 else None
    return Verdict(WARN if reason else PASS, reason, lag, "serials")


def _events_reason(status: ServerStatus, now: float) -> str | None:
    in_sync = _age(status.event_serial_in_sync_at, now)
    processed = _age(status.event_serial_timestamp, now)
    if _catches_up(status, now):
        return None  # a replica that fetches serials has other work than their events
    if in_sync is None:
        if processed is not None:
            return None
        waiting = (_age(status.last_commit_timestamp, now) or 0) > 300
        return "event processing does not seem to start" if waiting else None
    if in_sync > 6 * 3600:
        return "event processing has not been in sync for more than 6 hours"
    if processed is None or processed > 1800:
        return "no changes were processed for more than 30 minutes"
    if in_sync > 3600:
        return "event processing has not been in sync for more than 1 hour"
    return "no changes were processed for more than 5 minutes" if processed > 300 else None


def _catches_up(status: ServerStatus, now: float) -> bool:
    if status.primary_serial is None or status.serial is None or status.primary_serial <= status.serial:
        return False
    in_sync = _age(status.replica_in_sync_at, now)
    return in_sync is not None and in_sync <= 300


_REFUSALS: dict[str | None, tuple[str, str]] = {
    None: ("", "see that the primary can be reached"),
    "key": (
        ": it refuses our secret, for it has another one, or derives its keys in another way",
        "give both the same --secretfile, SIDECAR_SECRET_IS_RANDOM and --argon2-*",
    ),
    "clock": (": it finds our login expired", "set the clocks of both right"),
    "role": (": it does not run as a primary", "start it with --role primary"),
    "uuid": (
        ": it is another one than was replicated so far",
        "mend --primary-url, or start the replica on an empty serverdir",
    ),
    "serial": (
        ": it has fewer changes than this replica, as after a restore of an older backup",
        "start the replica on an empty serverdir",
    ),
    "offline": (": --offline-mode keeps this replica from it", "start the replica without --offline-mode"),
    "other": (
        ": it answers {}",
        "see both logs; a proxy in between must pass Authorization and X-Devpi-* on, and follow no redirect",
    ),
}
"""Why a primary gives a replica no changes (`PrimaryAnswered`), and what to do."""


_NAMED = 3
"""Files that a reason names."""
_RESTORE = (
    "on the primary, restore the file from a backup (its path is below +files in the serverdir) or upload it again,"
    " then restart this replica; or delete the version on the primary"
)
_RETRIED = "see this replica's log for the reason; devpi-server retries within an hour, after a restart at once"


class ReplicationJudge:
    """`replication`: whether this replica has what its primary has.

    `replica-in-sync-at` alone won't do: it stays fresh while the primary is away. And a replica of a busy
    primary is a serial behind at most instants, so once it was in sync it may be behind for `TOLERANCE`
    seconds.
    """

    FRESH = 60.0
    """Seconds that the last update from the primary may be old."""
    TOLERANCE = 60.0

    def __init__(self) -> None:
        self._in_sync_at: float | None = None

    def judge(self, status: ServerStatus, now: float, primary: PrimaryAnswered) -> Verdict:
        """The verdict at `now`, in seconds since the epoch, on a `+status` and an answer that may be older."""
        updated = _age(status.update_from_primary_at, now)
        if updated is None or updated >= self.FRESH:
            since = "yet" if updated is None else f"for {updated:.0f} s"
            why, mend = _REFUSALS.get(primary.refusal, _REFUSALS["other"])
            reason = f"no update from the primary {since}{why.format(primary.code)}"
            return Verdict(FAIL, reason, updated, None if updated is None else "seconds", mend)
        if status.replication_errors:
            return _unreplicated(status)
        if status.replica_init_queue_finished_at is None:
            return Verdict(FAIL, "the first replication of files has not finished")
        if status.serial is None or status.primary_serial is None:
            return Verdict(FAIL, "devpi-server does not tell its serial and its primary's")
        behind = status.primary_serial - status.serial
        if behind <= 0:
            self._in_sync_at = now
            return Verdict(PASS, value=0, unit="serials")
        in_sync = _age(self._in_sync_at, now)
        tolerated = in_sync is not None and in_sync < self.TOLERANCE
        return Verdict(WARN if tolerated else FAIL, f"{behind} serials behind the primary", behind, "serials")


def _unreplicated(status: ServerStatus) -> Verdict:
    """What a replica lacks, by name, and what to do: about what its primary has lost, before anything else."""
    count = status.replication_errors or 0
    lost = [each.path for each in status.unreplicated if each.lost]
    named = lost or [each.path for each in status.unreplicated]
    many = f"at least {count}" if count >= UNREPLICATED else str(count)
    reason = f"{many} file{'s' if count > 1 else ''} could not be replicated"
    if named:
        of = ", which the primary has lost" if lost else ""
        more = f" and {count - _NAMED} more" if count > _NAMED and len(named) > _NAMED else ""
        reason += f"{of}: {', '.join(named[:_NAMED])}{more}"
    mend = _RESTORE if lost else _RETRIED
    return Verdict(FAIL, reason, mend=mend)


def _age(at: float | None, now: float) -> float | None:
    """Seconds since `at`. One that lies ahead counts as old: the clock was set back, and no age can be trusted."""
    return None if at is None else abs(now - at)
