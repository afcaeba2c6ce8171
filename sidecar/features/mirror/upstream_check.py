"""The check `mirror`: whether the upstreams of mirrors answer, and their lists of projects are recent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from sidecar.core.check import PASS, WARN, Verdict, age
from sidecar.features.mirror.upstream_state import Upstream

NAME = "mirror"
MEANING = "upstreams of mirrors answer"
LIST_SECONDS = 24 * 3600.0
"""Age from which a list that is not refreshed warns."""
_NAMED = 3
"""Upstreams in trouble that are named; the rest is counted."""
_LATE = "see devpi-server's log: the list of projects should be refreshed every hour or so"


def judge_upstreams(upstreams: Sequence[Upstream], now: datetime) -> Verdict:
    """Return the verdict on all upstreams; the hint is that of the first one in trouble."""
    if not upstreams:
        return Verdict(PASS, "no upstream has been used yet")
    found = list(_troubles(upstreams, now))
    if not found:
        return Verdict(PASS)
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    reasons = "; ".join(reason for reason, _ in found[:_NAMED])
    return Verdict(WARN, f"{reasons}{more}", hint=next((hint for _, hint in found if hint), None))


def _troubles(upstreams: Sequence[Upstream], now: datetime) -> Iterator[tuple[str, str | None]]:
    """Yield reason and hint of each upstream in trouble, those that don't answer first."""
    for each in upstreams:
        if each.state != "up":
            reason, hint = ("no reason is known", None) if each.error is None else (each.error.reason, each.error.hint)
            yield f"{each.index}: {reason} ({_last(each.last_success)})", hint
    for each in upstreams:
        listed = each.list
        if each.state != "up" or listed.state == "off":
            continue
        if listed.error is not None:
            yield f"{each.index}: its list of projects can't be refreshed: {listed.error.reason}", listed.error.hint
        elif listed.state == "stale" and _old(listed.refreshed, now):
            at = "before" if listed.refreshed is None else f"since {_clock(listed.refreshed)}"
            yield f"{each.index}: its list of projects was not refreshed {at}", _LATE


def _old(at: datetime | None, now: datetime) -> bool:
    seconds = age(None if at is None else at.timestamp(), now.timestamp())
    return seconds is None or seconds > LIST_SECONDS


def _last(success: datetime | None) -> str:
    return "no success since the start" if success is None else f"last success {_clock(success)}"


def _clock(at: datetime) -> str:
    """Return a time that does not change with each second, as an age would."""
    return at.strftime("%Y-%m-%d %H:%M UTC")
