"""`events`: how far devpi's event processing is behind its commits."""

from __future__ import annotations

from sidecar.core.check import PASS, WARN, Verdict, age
from sidecar.devpi.server_status import ServerStatus


def judge_events(status: ServerStatus, now: float) -> Verdict:
    """`events`: how far devpi's event processing is behind its commits; `now` in seconds since the epoch.

    The rules are those of devpi's status page (`devpi_server.views.devpiweb_get_status_info`); `+status` lacks them.
    """
    if status.serial is None or status.event_serial is None:
        return Verdict(WARN, "devpi-server does not report the state of its event processing")
    lag = status.serial - status.event_serial
    reason = _events_reason(status, now) if lag > 0 else None
    return Verdict(WARN if reason else PASS, reason, lag, "serials")


def _events_reason(status: ServerStatus, now: float) -> str | None:
    in_sync = age(status.event_serial_in_sync_at, now)
    processed = age(status.event_serial_timestamp, now)
    if _catches_up(status, now):
        return None  # a replica fetches serials before it processes their events
    if in_sync is None:
        if processed is not None:
            return None
        waiting = (age(status.last_commit_timestamp, now) or 0) > 300
        return "event processing has not started" if waiting else None
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
    in_sync = age(status.replica_in_sync_at, now)
    return in_sync is not None and in_sync <= 300
