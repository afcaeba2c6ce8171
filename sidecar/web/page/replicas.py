"""The replicas of a primary, or how far a replica is behind its primary, as a section of the page."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import datetime
from typing import NamedTuple

from sidecar.core import text
from sidecar.core.check import FAIL, PASS, WARN, Check, CheckStatus
from sidecar.devpi.server_status import ServerStatus

_MANY = 20
"""Replicas that are shown; the rest is counted."""
_SILENT, _GONE = 60, 300
"""Seconds of silence after which a replica warns, and fails: one that has all changes asks about every 30 seconds."""


class Row(NamedTuple):
    """One replica."""

    address: str | None
    status: CheckStatus
    word: str
    behind: str
    asked: datetime | None
    silence: float | None
    """Seconds."""


def replicas(said: ServerStatus | None, checks: tuple[Check, ...], at: datetime) -> dict[str, Hashable]:
    """Return the section's values at the time `at`; nothing without replication."""
    if said is None:
        return {}
    if said.is_replica:
        check = next(each for each in checks if each.name == "replication")
        return {"check": check, "behind": _lag(said.behind)}
    if not said.polling_replicas:
        return {}
    rows = []
    for each in said.replicas[:_MANY]:
        behind = said.lag(each)
        silence = None if each.asked is None else abs((at - each.asked).total_seconds())
        rows.append(Row(each.address, *_verdict(behind, silence), _lag(behind), each.asked, silence))
    return {"check": None, "rows": tuple(rows), "more": said.polling_replicas - len(rows)}


def _lag(behind: int | None) -> str:
    return "unknown" if behind is None else text.value(behind, "serials")


def _verdict(behind: int | None, silence: float | None) -> tuple[CheckStatus, str]:
    """Return the verdict on a replica by its lag in serials and its silence in seconds; None: not known."""
    if silence is not None and silence > _GONE:
        return FAIL, "silent"
    if silence is not None and silence > _SILENT:
        return WARN, "silent"
    if behind is None or silence is None:
        return WARN, "unknown"
    return (WARN, "behind") if behind else (PASS, "all changes")  # of files only the replica itself knows
