"""The checks and readiness as metrics."""

from __future__ import annotations

from collections.abc import Iterable

from sidecar.core.board import Board
from sidecar.core.check import CheckStatus
from sidecar.core.sample import Family, counters, gauge, gauges

UNITS = ("seconds", "bytes", "serials", "replicas")
"""The units of the checks' values; each has its own metric."""


def families(board: Board, age: float) -> Iterable[Family]:
    """Return all families; `age`: seconds since the monitor's last tick."""
    checks = board.checks()
    yield gauge("devpi_sidecar_ready", "1 if /readyz answers 200.", float(not any(c.blocks for c in checks)))
    yield counters(
        "devpi_sidecar_readiness_transitions",
        "Changes of readiness, by the new state.",
        ("to",),
        (((to,), number) for to, number in board.turns.items()),
    )
    yield gauges(
        "devpi_sidecar_check_status",
        "1 for a check's current status, 0 for the others.",
        ("check", "status"),
        (((c.name, status), float(c.status is status)) for c in checks for status in CheckStatus),
    )
    for unit in UNITS:
        text = f"Values of the checks in {unit}."
        values = [((c.name,), c.value) for c in checks if c.unit == unit and c.value is not None]
        yield gauges(f"devpi_sidecar_check_{unit}", text, ("check",), values)
    text = "Time since the monitor's last tick; +Inf once it has ended."
    yield gauge("devpi_sidecar_monitor_age_seconds", text, age)
