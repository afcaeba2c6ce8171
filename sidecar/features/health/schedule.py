"""How often the monitor looks at what."""

from __future__ import annotations

from sidecar.features.health.target import Target

HEARTBEAT = 1.0
"""Seconds between two ticks at most, however rarely devpi-server is looked at."""
_LAUNCH_INTERVAL = 0.025
"""Seconds between two looks at a devpi-server that doesn't listen yet, for `LAUNCH_PATIENCE` seconds."""
_WAIT_INTERVAL = 0.25
"""Seconds between two looks after that, and at a replica that isn't in sync for the first time."""
_RARELY = 5
"""Intervals between two looks at the volume and at `+status`."""


def period(kind: str, target: Target, interval: float, *, launching: bool, unwritable: bool) -> float:
    """Seconds from the start of one look to the start of the next, while no error is answered.

    `interval`: the operator's. `launching`: this devpi-server is expected not to be ready yet. `unwritable`: the check
    `write` fails.
    """
    if kind == "lock":
        return HEARTBEAT
    if kind == "http":
        if target.answers.answered_at is None:
            return min(interval, _LAUNCH_INTERVAL if launching else _WAIT_INTERVAL)
        return interval / 4 if target.answers.failures == 1 else interval  # a second failure is soon known
    if kind == "volume":
        return interval if unwritable else _RARELY * interval
    if target.replica:
        return min(interval, _WAIT_INTERVAL) if launching else interval
    return _RARELY * interval
