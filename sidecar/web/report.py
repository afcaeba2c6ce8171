"""The page's HTML, section by section: the whole page, and what `/events` sends when a section has changed.

Everything that comes from outside (archives, uploads, devpi-server, the request) goes through `words.text`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from string import Template

from sidecar import advice, figures, mirrors
from sidecar.checks import FAIL, NOT_RUNNING, NOT_YET, PASS, PENDING, WARN, Check
from sidecar.devpi.client import ServerStatus
from sidecar.lifecycle import (
    Count,
    DevpiInfo,
    ImportState,
    ImportStatus,
    Notice,
    Phase,
    RootPassword,
    Snapshot,
    now,
)
from sidecar.trends import Trend
from sidecar.web import assets, guide, words
from sidecar.web.headline import headline, spoken, trouble
from sidecar.web.keys import Context
from sidecar.web.replicas import replicas
from sidecar.web.sparkline import sparkline

_MANY = 20
"""Archives, phases or replicas that are shown; the rest is counted."""


@dataclass(frozen=True, slots=True)
class View:
    """All that the page shows, at one instant."""

    snapshot: Snapshot
    checks: tuple[Check, ...]
    trends: tuple[Trend, ...]
    said: ServerStatus | None
    """What devpi-server said of itself last."""
    version: str
    """The sidecar's."""
    at: datetime = field(default_factory=now)


def view(context: Context) -> View:
    """What there is to show now, from memory."""
    health = context.health
    return View(
        context.lifecycle.snapshot, health.checks(), health.trends(), health.server_status(), context.sidecar_version
    )


def page(of: View, host: str, *, epoch: str, edition: str) -> str:
    """The whole page, for a browser that calls this server `host`."""
    roles = {"verdict": ' role="status" class="hidden"'}
    shown = {
        name: f'<div id="{name}" data-section{roles.get(name, "")}>{section}</div>'
        for name, section in sections(of).items()
    }
    return Template(assets.read("page.html").decode()).substitute(
        **shown, use=f'<div id="use" data-section>{guide.use(of.snapshot, host)}</div>', epoch=epoch, edition=edition
    )


def sections(of: View) -> dict[str, str]:
    """Each section but `use`, by its id in the page; an empty one isn't seen."""
    snapshot = of.snapshot
    return {
        "verdict": spoken(snapshot, of.checks),
        "headline": headline(snapshot, of.checks),
        "phases": _phases(snapshot),
        "import": _import(snapshot.imported),
        "notices": _notices(snapshot.notices),
        "checks": _checks(of.checks, of.trends),
        "password": _password(snapshot),
        "mirrors": _mirrors(snapshot),
        "replicas": replicas(of.said, of.checks, of.at),
        "versions": _versions(snapshot.devpi, of.said, of.version),
    }


# --- at a glance ------------------------------------------------------------------------------------------------


def _phases(snapshot: Snapshot) -> str:
    history = snapshot.history
    begun = snapshot.begun
    items = []
    for number, (phase, since) in enumerate(history):
        if number < len(history) - _MANY:
            continue
        if number + 1 < len(history):
            took = figures.duration(begun[number + 1] - begun[number])
            items.append(f'<li class="done"><b>{phase}</b><span>{took}</span></li>')
        else:
            kind = "bad" if phase is Phase.FAILED else "good" if phase is Phase.READY else "wait"
            items.append(f'<li class="now {kind}" aria-current="step"><b>{phase}</b>{words.lasting(since)}</li>')
    return f'<h2 class="hidden">Phases</h2><ol class="phases">{"".join(items)}</ol>'


# --- import -----------------------------------------------------------------------------------------------------

_STEPS = {
    ImportState.PENDING: "Step 1 of 3: about to unpack",
    ImportState.EXTRACTING: "Step 1 of 3: unpacking and verifying",
    ImportState.LOADING: "Step 2 of 3: loading",
    ImportState.PROMOTING: "Step 3 of 3: moving it to its place",
}


def _import(of: ImportStatus) -> str:
    if of.state is ImportState.NONE:
        return ""
    parts = ["<h2>Import</h2>"]
    if of.state is ImportState.COMPLETED:
        parts.append(f"<p>{words.badge(PASS, 'completed')} {_span(of)}</p>")
    elif of.state is ImportState.FAILED:
        parts.append(f"<p>{words.badge(FAIL, 'failed')} {_span(of)}</p>")
        parts.append(_import_error(of))
    else:
        parts.append(_progress(of))
    parts.append(_counts(of))
    parts.append(_left_out(of))
    parts.append(_archives(of))
    return "".join(parts)


def _span(of: ImportStatus) -> str:
    if of.started is None or of.finished is None:
        return ""
    return f"{words.time(of.finished)}, after {figures.duration((of.finished - of.started).total_seconds())}"


def _import_error(of: ImportStatus) -> str:
    if of.error is None:
        return ""
    places = [
        f"<dt>{name}</dt><dd>{words.text(place, 500)}</dd>"
        for name, place in (("Archive", of.error.archive), ("Member", of.error.member))
        if place
    ]
    where = f'<dl class="places">{"".join(places)}</dl>' if places else ""
    return f'<div class="trouble">{trouble(of.error.reason, of.error.mend)}{where}</div>'


def _progress(of: ImportStatus) -> str:
    step = _STEPS[of.state]
    count = of.extracted if of.state in (ImportState.PENDING, ImportState.EXTRACTING) else of.files
    if of.state is ImportState.PROMOTING:
        count = Count(1, 1)
    measure = f' max="{count.total}" value="{min(count.done, count.total)}"' if count.total else ""
    percent = f"{100 * min(count.done, count.total) // count.total} %" if count.total else ""
    left = f"about {figures.duration(of.eta_seconds)} left" if of.eta_seconds is not None else ""
    rate = f"{of.rate:,.0f} files/s" if of.rate is not None else ""
    now = f'<p class="current">{words.text(of.current, 120)}</p>' if of.current else '<p class="current"></p>'
    return (
        f'<div class="progress"><p><span>{step}</span><span>{percent}</span></p>'
        f'<progress aria-label="{step}"{measure}></progress>'
        f"<p><span>{rate}</span><span>{left}</span></p>{now}</div>"
    )


def _counts(of: ImportStatus) -> str:
    """What is counted, as done of total; nothing where nothing has been counted yet."""
    counts = [
        (name, f"{count.done:,}", f"{count.total:,}")
        for name, count in (
            ("Files", of.files), ("Projects", of.projects), ("Indexes", of.indexes), ("Users", of.users),
        )
    ]  # fmt: skip
    counts.append(("Bytes", figures.size(of.bytes.done), figures.size(of.bytes.total)))
    if not of.files.total and not of.users.total:
        return ""
    done = of.state is ImportState.COMPLETED
    cells = [
        f"<div><dt>{name}</dt><dd>{made}{'' if done else f' <small>of {total}</small>'}</dd></div>"
        for name, made, total in counts
    ]
    return f'<dl class="counts">{"".join(cells)}</dl>'


def _left_out(of: ImportStatus) -> str:
    if not of.left_out_total:
        return ""
    items = [
        f"<li>{words.text(each.member)} of {words.text(each.archive)}: {words.text(each.reason)}</li>"
        for each in of.left_out
    ]
    if (more := of.left_out_total - len(items)) > 0:
        items.append(f"<li>and {more} more</li>")
    said = f"{words.badge(WARN, 'incomplete')} {of.left_out_total} left out, not safe to load:"
    return f'<div id="left-out"><p>{said}</p><ul>{"".join(items)}</ul></div>'


def _archives(of: ImportStatus) -> str:
    if not of.archives and not of.ignored:
        return ""
    items = []
    for archive in of.archives[:_MANY]:
        digest = f"<br><code>sha256 {words.text(archive.sha256, 64)}</code>" if archive.sha256 else ""
        items.append(f"<li>{words.text(archive.name)}, {figures.size(archive.bytes)}{digest}</li>")
    items += [f"<li>{words.text(name)}, ignored: not an export</li>" for name in of.ignored[:_MANY]]
    if (more := max(0, len(of.archives) - _MANY) + max(0, len(of.ignored) - _MANY)) > 0:
        items.append(f"<li>and {more} more</li>")
    title = f"{len(of.archives)} archive{'' if len(of.archives) == 1 else 's'}"
    return f'<details id="archives"><summary id="archives-title">{title}</summary><ul>{"".join(items)}</ul></details>'


# --- notices ----------------------------------------------------------------------------------------------------


def _notices(notices: tuple[Notice, ...]) -> str:
    if not notices:
        return ""
    items = [f'<div class="trouble">{trouble(each.reason, each.mend)}</div>' for each in notices[:_MANY]]
    if (more := len(notices) - _MANY) > 0:
        items.append(f"<p>and {more} more</p>")
    return f"<h2>Notices</h2>{''.join(items)}"


# --- checks -----------------------------------------------------------------------------------------------------


def _checks(checks: tuple[Check, ...], trends: tuple[Trend, ...]) -> str:
    if all(check.status is PENDING for check in checks):
        return ""  # there is nothing to look at yet, and the headline says why
    rows = "".join(_check(check, trend) for check, trend in zip(checks, trends, strict=True))
    return (
        '<h2>Checks</h2><table class="checks"><thead><tr><th scope="col">Check</th><th scope="col">Verdict</th>'
        '<th scope="col">Value</th><th scope="col"><div class="history">'
        '<span class="ends"><span>15 min ago …</span> <span>now</span></span></div></th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _check(check: Check, trend: Trend) -> str:
    gates = "" if check.gates else " <small>warns only</small>"
    free = " free" if check.unit == "bytes" else ""
    verdict = f"{words.badge(check.status)} {words.lasting(check.since)}"
    if unknown := check.reason in (NOT_YET, NOT_RUNNING):
        verdict = words.badge(PENDING) if check.status is PENDING else f'<span class="none">{check.reason}</span>'
    row = (
        f'<tr><th scope="row">{check.name}{gates}</th><td>{verdict}</td>'
        f"<td>{figures.value(check.value, check.unit)}{free}</td><td>{sparkline(trend)}</td></tr>"
    )
    if check.status is PASS or check.reason is None or unknown or check.name == "process":  # the headline says that
        return row
    return f'{row}<tr class="why"><td colspan="4">{trouble(check.reason, check.mend)}</td></tr>'


# --- the rest ---------------------------------------------------------------------------------------------------

_PASSWORDS = {
    RootPassword.CLAIMABLE: "It was generated, and nobody has claimed it yet. It is told once.",
    RootPassword.CLAIMED: "Claimed",
    RootPassword.EXPIRED: "Nobody claimed it until",
    RootPassword.GIVEN: "It is the one that was given at the first start, unless it was changed since.",
    RootPassword.FROM_IMPORT: "It is the one of the imported export.",
    RootPassword.UNKNOWN: "It is not known here.",
}


def _unusable(snapshot: Snapshot) -> str:
    """The users who need a new password, if there are any."""
    of = snapshot.unusable_passwords
    if of is None or not of.total:
        return ""
    names = ", ".join(words.text(name, 60) for name in of.users[:_MANY])
    more = f" and {of.total - len(of.users[:_MANY])} more" if of.total > len(of.users[:_MANY]) else ""
    count = "1 user needs" if of.total == 1 else f"{of.total} users need"
    return (
        f'<h2>Users who can&rsquo;t log in</h2><p class="unusable">{count} a new password, because this devpi-server '
        f"can&rsquo;t check the old hash: {names}{more}.</p>{_mend(advice.user_password(snapshot))}"
    )


def _password(snapshot: Snapshot) -> str:
    return _root_password(snapshot) + _unusable(snapshot)


def _root_password(snapshot: Snapshot) -> str:
    of, mend = snapshot.root_password, advice.root_password(snapshot)
    if of.state is RootPassword.UNKNOWN and mend is None:
        return ""
    told = f"<p>{_PASSWORDS[of.state]}"
    if of.changed is not None:
        told += f" {words.time(of.changed)}"
    if of.state is RootPassword.CLAIMED:
        told += "; from where, is told with the admin token.</p>"
    elif of.state is RootPassword.EXPIRED:
        told += ", and it was thrown away.</p>"
    else:
        told += "</p>"
    if of.state is RootPassword.CLAIMABLE and of.expires is not None:
        told += f"<p>It can be claimed until {words.time(of.expires)}.</p>"
    state = "unclaimable" if of.state is RootPassword.CLAIMABLE and not advice.claimable(snapshot) else of.state
    return f'<h2>root&rsquo;s password</h2><div data-state="{state}">{told}{_mend(mend)}</div>'


def _mend(mend: str | None) -> str:
    return f'<p class="mend">In the container: {words.with_code(mend)}.</p>' if mend else ""


def _mirrors(snapshot: Snapshot) -> str:
    notes = "".join(f'<p class="mirror">{words.with_code(note)}</p>' for note in mirrors.notes(snapshot.mirrors))
    return f"<h2>Mirrors</h2>{notes}" if notes else ""


def _versions(devpi: DevpiInfo | None, said: ServerStatus | None, version: str) -> str:
    parts = [f"devpi-sidecar {words.text(version, 50)}"]
    if devpi is not None:
        parts.insert(0, f"devpi-server {words.text(devpi.version, 50)}, {words.text(devpi.role, 20)}")
        parts += [f"{words.text(name, 60)} {words.text(of, 40)}" for name, of in devpi.plugins[:_MANY]]
    if said is not None and said.serial is not None:
        parts.append(f"serial {said.serial:,}")
    return f"<p>{' · '.join(parts)}</p>"
