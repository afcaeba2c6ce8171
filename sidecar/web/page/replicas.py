"""The replicas of a primary, or how far behind its own a replica is, as a section of the page."""

from __future__ import annotations

from datetime import datetime

from sidecar.core import text
from sidecar.core.check import FAIL, PASS, WARN, Check
from sidecar.devpi.server_status import Replica, ServerStatus
from sidecar.web.page import words

_MANY = 20
"""Replicas that are shown; the rest is counted."""
_SILENT, _GONE = 60, 300
"""Seconds without a word, after which a replica is worth a look, and is taken to be away: one that has all there is
asks again every half a minute or so."""


def replicas(said: ServerStatus | None, checks: tuple[Check, ...], at: datetime) -> str:
    """The section, at the time `at`; empty where there is nothing to replicate."""
    if said is None:
        return ""
    if said.is_replica:
        check = next(each for each in checks if each.name == "replication")
        return (
            "<h2>Replication</h2><p>This is a replica.</p>"
            f'<dl class="counts"><div><dt>Behind its primary</dt><dd>{_lag(said.behind)}</dd></div>'
            f"<div><dt>Verdict</dt><dd>{words.badge(check.status)}</dd></div></dl>"
        )
    if not said.polling_replicas:
        return ""
    rows = "".join(_replica(each, said.lag(each), at) for each in said.replicas[:_MANY])
    more = said.polling_replicas - min(len(said.replicas), _MANY)
    return (
        '<h2>Replicas</h2><table class="replicas"><thead><tr><th scope="col">Address</th><th scope="col">Verdict</th>'
        f'<th scope="col">Behind</th><th scope="col">Last heard of</th></tr></thead><tbody>{rows}</tbody></table>'
        + (f"<p>and {more} more</p>" if more > 0 else "")
    )


def _replica(of: Replica, behind: int | None, at: datetime) -> str:
    silence, heard = None, "unknown"
    if of.asked is not None:
        silence = abs((at - of.asked).total_seconds())
        heard = f"{words.time(of.asked)} <small>{words.ago(of.asked, silence)}</small>"
    return (
        f'<tr><th scope="row">{words.text(of.address or "unknown", 60)}</th><td>{_verdict(behind, silence)}</td>'
        f"<td>{_lag(behind)}</td><td>{heard}</td></tr>"
    )


def _lag(behind: int | None) -> str:
    return "unknown" if behind is None else text.value(behind, "serials")


def _verdict(behind: int | None, silence: float | None) -> str:
    """By how far behind it is, in serials, and for how many seconds nothing was heard of it; None: not known."""
    if silence is not None and silence > _GONE:
        return words.badge(FAIL, "silent")
    if silence is not None and silence > _SILENT:
        return words.badge(WARN, "silent")
    if behind is None or silence is None:
        return words.badge(WARN, "unknown")
    return words.badge(WARN, "behind") if behind else words.badge(PASS, "all changes")  # its files it knows itself
