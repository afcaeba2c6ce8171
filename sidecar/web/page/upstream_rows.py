"""The upstreams of mirrors as a section of the page: whether they answer, and how much the cache spares them."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import datetime
from typing import NamedTuple

from sidecar.core.check import FAIL, PASS, WARN, CheckStatus
from sidecar.features.mirror.following import Mirrors, notes
from sidecar.features.mirror.upstream_state import Counts, Error, ProjectList, Upstream

_BADGES = {"up": PASS, "failing": WARN, "down": FAIL}


class Row(NamedTuple):
    """One upstream."""

    mirror: str
    origin: str
    status: CheckStatus
    word: str
    answered: datetime | None
    silence: float | None
    """Seconds since its last answer."""
    listed: str
    """The state of its list of projects, in words."""
    refreshed: datetime | None
    list_age: float | None
    """Seconds."""
    cached: str
    """How many requests the cache answered."""
    error: Error | None
    list_error: Error | None
    next_try: datetime | None


def upstreams(of: Mirrors | None, at: datetime) -> dict[str, Hashable]:
    """Return the section's values at the time `at`; nothing if there is nothing to tell."""
    if of is None or not (of.upstreams or notes(of)):
        return {}
    rows = tuple(_row(each, at) for each in of.upstreams)
    return {"rows": rows, "more": of.total - len(rows), "notes": tuple(notes(of))}


def _row(of: Upstream, at: datetime) -> Row:
    listed, tried = of.list, of.next_try if of.state == "down" else None
    return Row(
        of.index,
        of.origin,
        _BADGES[of.state],
        of.state,
        of.last_success,
        _age(of.last_success, at),
        _listed(listed),
        listed.refreshed,
        _age(listed.refreshed, at),
        _cached(of.counts),
        of.error,
        listed.error,
        tried,
    )


def _listed(of: ProjectList) -> str:
    if of.state == "off":
        return "no list"
    if of.state == "missing" or of.names is None:
        return "no list yet"
    return f"{of.names:,} project{'' if of.names == 1 else 's'} in its list{', stale' if of.state == 'stale' else ''}"


def _cached(of: Counts) -> str:
    """Return the share of clients' requests that upstream did not have to answer."""
    total = sum(of.pages) + sum(of.files)
    hits, _, stale, _ = (page + file for page, file in zip(of.pages, of.files, strict=True))
    return f"{hits + stale:,} of {total:,} from the cache" if total else "not used yet"


def _age(at: datetime | None, now: datetime) -> float | None:
    return None if at is None else abs((now - at).total_seconds())
