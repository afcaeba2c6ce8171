"""`replication`: a replica has all changes and files of its primary."""

from __future__ import annotations

from sidecar.core.check import FAIL, PASS, WARN, Verdict, age
from sidecar.devpi.protocol import UNREPLICATED, PrimaryAnswered
from sidecar.devpi.server_status import ServerStatus

_REFUSALS: dict[str | None, tuple[str, str]] = {
    None: ("", "make the primary reachable from this replica"),
    "key": (
        ": it rejected the shared secret",
        "set the same --secretfile, SIDECAR_SECRET_IS_RANDOM and --argon2-* on both",
    ),
    "clock": (": it rejected an expired login", "synchronise the clocks of both"),
    "role": (": it does not run as a primary", "start it with --role primary"),
    "uuid": (
        ": it is a different primary from the one replicated before",
        "fix --primary-url, or start the replica on an empty serverdir",
    ),
    "serial": (
        ": it has fewer changes than this replica, as after a restore of an older backup",
        "start the replica on an empty serverdir",
    ),
    "offline": (": --offline-mode disables replication", "start the replica without --offline-mode"),
    "other": (
        ": it answers {}",
        "see both logs; a proxy in between must pass on Authorization and X-Devpi-*, and must not follow redirects",
    ),
}
"""Why a primary sends a replica no changes (`PrimaryAnswered`), and the hint."""

_NAMED = 3
"""Maximum files listed in a reason."""
_RESTORE = (
    "on the primary, restore the file from a backup (its path is below +files in the serverdir) or upload it again,"
    " then restart this replica; or delete the version on the primary"
)
_RETRIED = "see this replica's log for the reason; devpi-server retries within an hour, and at once after a restart"


class ReplicationJudge:
    """`replication`: whether this replica has all changes and files of its primary.

    `replica-in-sync-at` is not enough: it stays fresh while the primary is unreachable. A replica of a busy primary is
    mostly a serial behind, so once it was in sync it may be behind for `TOLERANCE` seconds.
    """

    FRESH = 60.0
    """Maximum age in seconds of the last update from the primary."""
    TOLERANCE = 60.0

    def __init__(self) -> None:
        self._in_sync_at: float | None = None

    def judge(self, status: ServerStatus, now: float, primary: PrimaryAnswered) -> Verdict:
        """Return the verdict at `now`, in seconds since the epoch. `primary` may be older than `status`."""
        updated = age(status.update_from_primary_at, now)
        if updated is None or updated >= self.FRESH:
            since = "yet" if updated is None else f"for {updated:.0f} s"
            why, hint = _REFUSALS.get(primary.refusal, _REFUSALS["other"])
            reason = f"no update from the primary {since}{why.format(primary.code)}"
            return Verdict(FAIL, reason, updated, None if updated is None else "seconds", hint)
        if status.replication_errors:
            return _unreplicated(status)
        if status.replica_init_queue_finished_at is None:
            return Verdict(FAIL, "the first replication of files has not finished")
        if status.serial is None or status.primary_serial is None:
            return Verdict(FAIL, "devpi-server does not report its own serial and the primary's")
        behind = status.primary_serial - status.serial
        if behind <= 0:
            self._in_sync_at = now
            return Verdict(PASS, value=0, unit="serials")
        in_sync = age(self._in_sync_at, now)
        tolerated = in_sync is not None and in_sync < self.TOLERANCE
        return Verdict(WARN if tolerated else FAIL, f"{behind} serials behind the primary", behind, "serials")


def _unreplicated(status: ServerStatus) -> Verdict:
    """Return the verdict on missing files: first on those that the primary has lost."""
    count = status.replication_errors or 0
    lost = [each.path for each in status.unreplicated if each.lost]
    named = lost or [each.path for each in status.unreplicated]
    many = f"at least {count}" if count >= UNREPLICATED else str(count)
    reason = f"{many} file{'s' if count > 1 else ''} could not be replicated"
    if named:
        of = ", which the primary has lost" if lost else ""
        more = f" and {count - _NAMED} more" if count > _NAMED and len(named) > _NAMED else ""
        reason += f"{of}: {', '.join(named[:_NAMED])}{more}"
    hint = _RESTORE if lost else _RETRIED
    return Verdict(FAIL, reason, hint=hint)
