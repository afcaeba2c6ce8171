"""The replicas of a primary, or how far behind its own a replica is, as a section of the page."""

from __future__ import annotations

from datetime import UTC, datetime

from sidecar.checks import FAIL, PASS, WARN, Check
from sidecar.devpi.client import Replica, ServerStatus
from sidecar.web import words

_MANY = 20
"""Replicas that are shown; the rest is counted."""
_SILENT, _GONE = 60, 300
"""Seconds without a word, after which a replica is worth a look, and is taken to be away: one that has all there is
asks again every half a minute or so."""


def replicas(said: ServerStatus | None, checks: tuple[Check, ...], at: datetime) -> str:
    """The section, at the time `at`; empty where there is nothing to replicate."""
    if said is None:
        return ""
    if said.primary_serial is not None or (said.role or "").upper() == "REPLICA":
        behind = None if said.primary_serial is None or said.serial is None else said.primary_serial - said.serial
        check = next(each for each in checks if each.name == "replication")
        lag = "unknown" if behind is None else words.value(max(0, behind), "serials")
        return (
            "<h2>Replication</h2><p>This is a replica.</p>"
            f'<dl class="counts"><div><dt>Behind its primary</dt><dd>{lag}</dd></div>'
            f"<div><dt>Verdict</dt><dd>{words.badge(check.status)}</dd></div></dl>"
        )
    if not said.polling_replicas:
        return ""
    rows = "".join(_replica(each, said.serial, at.timestamp()) for each in said.replicas[:_MANY])
    more = said.polling_replicas - min(len(said.replicas), _MANY)
    return (
        '<h2>Replicas</h2><table class="replicas"><thead><tr><th scope="col">Address</th><th scope="col">Verdict</th>'
        f'<th scope="col">Behind</th><th scope="col">Last heard of</th></tr></thead><tbody>{rows}</tbody></table>'
        + (f"<p>and {more} more</p>" if more > 0 else "")
    )


def _replica(of: Replica, serial: int | None, now: float) -> str:
    behind = None if serial is None or of.serial is None else max(0, serial - of.serial)
    lag = "unknown" if behind is None else words.value(behind, "serials")
    silence, heard = None, "unknown"
    if of.asked_at is not None and 0 <= of.asked_at < 4e9:
        silence, at = abs(now - of.asked_at), datetime.fromtimestamp(int(of.asked_at), UTC)
        heard = f"{words.time(at)} <small>{words.ago(at, silence)}</small>"
    return (
        f'<tr><th scope="row">{words.text(of.address or "unknown", 60)}</th><td>{_verdict(behind, silence)}</td>'
        f"<td>{lag}</td><td>{heard}</td></tr>"
    )


def _verdict(behind: int | None, silence: float | None) -> str:
    """By how far behind it is, in serials, and for how many seconds nothing was heard of it; None: not known."""
    if silence is not None and silence > _GONE:
        return words.badge(FAIL, "silent")
    if silence is not None and silence > _SILENT:
        return words.badge(WARN, "silent")
    if behind is None or silence is None:
        return words.badge(WARN, "unknown")
    return words.badge(WARN, "behind") if behind else words.badge(PASS, "in sync")
