"""The intervals of the monitor's probes."""

from __future__ import annotations

from sidecar.features.health.target import Target

HEARTBEAT = 1.0
"""Maximum seconds between two ticks, however rarely devpi-server is probed."""
_LAUNCH_INTERVAL = 0.025
"""Seconds between two probes of a devpi-server that doesn't listen yet, for `LAUNCH_PATIENCE` seconds."""
_WAIT_INTERVAL = 0.25
"""Seconds between two probes after that, and of a replica that has never been in sync."""
_RARELY = 5
"""Intervals between two probes of the volume and of `+status`."""


def period(kind: str, target: Target, interval: float, *, launching: bool, unwritable: bool) -> float:
    """Return the seconds from the start of one probe to the start of the next, unless it is backed off.

    `interval`: the setting. `launching`: this devpi-server need not be ready yet. `unwritable`: the check `write`
    fails.
    """
    if kind == "lock":
        return HEARTBEAT
    if kind == "http":
        if target.answers.answered_at is None:
            return min(interval, _LAUNCH_INTERVAL if launching else _WAIT_INTERVAL)
        return interval / 4 if target.answers.failures == 1 else interval  # to confirm a failure soon
    if kind == "volume":
        return interval if unwritable else _RARELY * interval
    if target.replica:
        return min(interval, _WAIT_INTERVAL) if launching else interval
    return _RARELY * interval
