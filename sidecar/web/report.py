"""The page's HTML, section by section: the whole page, and what `/events` sends when a section has changed.

Everything that comes from outside (archives, uploads, devpi-server, the request) goes through `_text`.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from sidecar.checks import FAIL, PASS, WARN, Check, CheckStatus
from sidecar.devpi.client import Replica, ServerStatus
from sidecar.lifecycle import Count, DevpiInfo, ImportState, ImportStatus, Phase, RootPassword, Snapshot
from sidecar.terminal import printable
from sidecar.trends import SAMPLES, Trend
from sidecar.web.keys import Context
from sidecar.web.shapes import public, rfc3339

_MANY = 20
"""Archives, phases or replicas that are shown; the rest is counted."""
_WIDTH, _HEIGHT, _STRIP = 120, 28, 4
"""Of a trend, in its own units; the strip at its foot has the verdicts."""


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


def view(context: Context) -> View:
    """What there is to show now, from memory."""
    health = context.health
    return View(
        context.lifecycle.snapshot, health.checks(), health.trends(), health.server_status(), context.sidecar_version
    )


def page(of: View, host: str, *, epoch: str, edition: str) -> str:
    """The whole page, for a browser that calls this server `host`."""
    roles = {"headline": ' role="status"'}
    shown = {name: f'<div id="{name}"{roles.get(name, "")}>{section}</div>' for name, section in sections(of).items()}
    return _PAGE.format(
        **shown, use=f'<div id="use">{use(of.snapshot.devpi, host)}</div>', epoch=epoch, edition=edition
    )


def sections(of: View) -> dict[str, str]:
    """Each section but `use`, by its id in the page; an empty one isn't seen."""
    snapshot = of.snapshot
    return {
        "headline": _headline(snapshot, of.checks),
        "phases": _phases(snapshot),
        "import": _import(snapshot.imported),
        "checks": _checks(of.checks, of.trends),
        "password": _password(snapshot),
        "replicas": _replicas(of.said, of.checks),
        "versions": _versions(snapshot.devpi, of.said, of.version),
    }


# --- at a glance ------------------------------------------------------------------------------------------------

_ICONS = {
    "good": '<path d="M7 12.5l3.5 3.5L17 9"/>',
    "wait": '<path d="M12 7v5l3.5 2"/>',
    "warn": '<path d="M12 7v6M12 16.5v.5"/>',
    "bad": '<path d="M8.5 8.5l7 7M15.5 8.5l-7 7"/>',
}
_UNDER_WAY = {
    Phase.STARTING: ("Starting", "Reading the flags, locking the volume."),
    Phase.INITIALISING: ("Initialising", "An empty volume gets its first state."),
    Phase.IMPORTING: (
        "Importing",
        "devpi-server serves when it is done. Nothing is half: a stop leaves the volume empty.",
    ),
    Phase.LAUNCHING: ("Launching", "devpi-server starts."),
    Phase.STOPPING: ("Stopping", "Running transfers finish, then it ends."),
}


def _headline(snapshot: Snapshot, checks: tuple[Check, ...]) -> str:
    tone, title, more = _verdict(snapshot, checks)
    since = f'<p class="since">{snapshot.phase} since {_time(snapshot.since)}</p>'
    return (
        f'<div class="headline {tone}"><svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="10"/>'
        f"{_ICONS[tone]}</svg><div><h1>{title}</h1>{more}{since}</div></div>"
    )


def _verdict(snapshot: Snapshot, checks: tuple[Check, ...]) -> tuple[str, str, str]:
    """The tone, the title, and what there is to add."""
    if snapshot.phase is Phase.FAILED:
        failure = snapshot.failure
        return "bad", "Failed", _trouble(failure.reason, failure.mend) if failure else ""
    if snapshot.phase in _UNDER_WAY:
        title, more = _UNDER_WAY[snapshot.phase]
        return "wait", title, f"<p>{more}</p>"
    failing = [check for check in checks if check.gates and check.status is FAIL]
    if failing:
        return "bad", "Not ready", "".join(_trouble(f"{c.name}: {c.reason}", c.mend) for c in failing)
    warning = [check for check in checks if check.status is not PASS]
    if warning:
        return "warn", "Ready, with a warning", "".join(_trouble(f"{c.name}: {c.reason}", c.mend) for c in warning)
    return "good", "Ready", "<p>devpi-server serves. All checks pass.</p>"


def _trouble(reason: str | None, mend: str | None) -> str:
    told = f"<p>{_text(reason, 1000)}</p>"
    return f'{told}<p class="mend"><b>What to do:</b> {_text(mend, 1000)}</p>' if mend else told


def _phases(snapshot: Snapshot) -> str:
    history = snapshot.history
    ends = [since for _, since in history[1:]]
    items = []
    for number, (phase, since) in enumerate(history):
        if number < len(history) - _MANY:
            continue
        if number < len(ends):
            items.append(
                f'<li class="done"><b>{phase}</b><span>{_duration((ends[number] - since).total_seconds())}</span></li>'
            )
        else:
            kind = "bad" if phase is Phase.FAILED else "good" if phase is Phase.READY else "wait"
            items.append(f'<li class="now {kind}" aria-current="step"><b>{phase}</b>{_for(since)}</li>')
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
        parts.append(f"<p>{_badge(PASS, 'completed')} {_span(of)}</p>")
    elif of.state is ImportState.FAILED:
        parts.append(f"<p>{_badge(FAIL, 'failed')} {_span(of)}</p>")
        parts.append(_import_error(of))
    else:
        parts.append(_progress(of))
    parts.append(_counts(of))
    parts.append(_archives(of))
    return "".join(parts)


def _span(of: ImportStatus) -> str:
    if of.started is None or of.finished is None:
        return ""
    return f"{_time(of.finished)}, after {_duration((of.finished - of.started).total_seconds())}"


def _import_error(of: ImportStatus) -> str:
    if of.error is None:
        return ""
    places = [
        f"<dt>{name}</dt><dd>{_text(place, 500)}</dd>"
        for name, place in (("Archive", of.error.archive), ("Member", of.error.member))
        if place
    ]
    where = f'<dl class="places">{"".join(places)}</dl>' if places else ""
    return f'<div class="trouble">{_trouble(of.error.reason, of.error.mend)}{where}</div>'


def _progress(of: ImportStatus) -> str:
    step = _STEPS[of.state]
    count = of.extracted if of.state in (ImportState.PENDING, ImportState.EXTRACTING) else of.files
    if of.state is ImportState.PROMOTING:
        count = Count(1, 1)
    measure = f' max="{count.total}" value="{min(count.done, count.total)}"' if count.total else ""
    percent = f"{100 * min(count.done, count.total) // count.total} %" if count.total else ""
    left = f"about {_duration(of.eta_seconds)} left" if of.eta_seconds is not None else ""
    rate = f"{of.rate:,.0f} files/s" if of.rate is not None else ""
    now = f'<p class="current">{_text(of.current, 120)}</p>' if of.current else '<p class="current"></p>'
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
    counts.append(("Bytes", _bytes(of.bytes.done), _bytes(of.bytes.total)))
    if not of.files.total and not of.users.total:
        return ""
    done = of.state is ImportState.COMPLETED
    cells = [
        f"<div><dt>{name}</dt><dd>{made}{'' if done else f' <small>of {total}</small>'}</dd></div>"
        for name, made, total in counts
    ]
    return f'<dl class="counts">{"".join(cells)}</dl>'


def _archives(of: ImportStatus) -> str:
    if not of.archives and not of.ignored:
        return ""
    items = []
    for archive in of.archives[:_MANY]:
        digest = f"<br><code>sha256 {_text(archive.sha256, 64)}</code>" if archive.sha256 else ""
        items.append(f"<li>{_text(archive.name)}, {_bytes(archive.bytes)}{digest}</li>")
    items += [f"<li>{_text(name)}, ignored: not an export</li>" for name in of.ignored[:_MANY]]
    if (more := max(0, len(of.archives) - _MANY) + max(0, len(of.ignored) - _MANY)) > 0:
        items.append(f"<li>and {more} more</li>")
    title = f"{len(of.archives)} archive{'' if len(of.archives) == 1 else 's'}"
    return f'<details id="archives"><summary>{title}</summary><ul>{"".join(items)}</ul></details>'


# --- checks -----------------------------------------------------------------------------------------------------


def _checks(checks: tuple[Check, ...], trends: tuple[Trend, ...]) -> str:
    rows = "".join(_check(check, trend) for check, trend in zip(checks, trends, strict=True))
    return (
        '<h2>Checks</h2><table class="checks"><thead><tr><th scope="col">Check</th><th scope="col">Verdict</th>'
        '<th scope="col">Value</th><th scope="col">Last 15 minutes</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _check(check: Check, trend: Trend) -> str:
    gates = "" if check.gates else " <small>warns only</small>"
    row = (
        f'<tr><th scope="row">{check.name}{gates}</th><td>{_badge(check.status)} {_for(check.since)}</td>'
        f"<td>{_value(check.value, check.unit)}</td><td>{_trend(trend, check.unit)}</td></tr>"
    )
    if check.status is PASS or not check.reason:
        return row
    return f'{row}<tr class="why {check.status}"><td colspan="4">{_trouble(check.reason, check.mend)}</td></tr>'


def _badge(status: CheckStatus, word: str | None = None) -> str:
    sign = {PASS: "✓", WARN: "!", FAIL: "✕"}[status]
    return f'<span class="badge {status}"><span aria-hidden="true">{sign}</span>{word or status}</span>'


def _trend(trend: Trend, unit: str | None) -> str:
    """The values as a line, the verdicts as a strip below it."""
    seen = [sample for sample in trend.samples if sample is not None]
    if not seen:
        return '<span class="none">nothing yet</span>'
    step = _WIDTH / SAMPLES
    strip = []
    begin = 0
    for place in range(1, SAMPLES + 1):
        here, status = _status(trend, place), _status(trend, begin)
        if place == SAMPLES or here is not status:
            if status is not None:
                x, width = begin * step, (place - begin) * step
                strip.append(f'<rect class="{status}" x="{x:g}" y="{_HEIGHT - _STRIP}" width="{width:g}" height="4"/>')
            begin = place
    values = [sample.value for sample in seen if sample.value is not None]
    line = f'<path d="{_line(trend, min(values), max(values))}"/>' if len(values) > 1 else ""
    return (
        f'<svg class="trend" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img"'
        f' aria-label="{_in_words(trend, values, unit)}">{line}{"".join(strip)}</svg>'
    )


def _status(trend: Trend, place: int) -> CheckStatus | None:
    sample = trend.samples[place] if place < SAMPLES else None
    return None if sample is None else sample.status


def _line(trend: Trend, least: float, greatest: float) -> str:
    """From 0 up, unless the values lie close together high above it: then it is their changes that matter."""
    floor = 0.0 if least < greatest / 2 else least - (greatest - least) / 2
    scale = (_HEIGHT - _STRIP - 4) / (greatest - floor or 1)
    commands, pen = [], "M"
    for place, sample in enumerate(trend.samples):
        if sample is None or sample.value is None:
            pen = "M"
            continue
        x, y = (place + 0.5) * _WIDTH / SAMPLES, _HEIGHT - _STRIP - 2 - (sample.value - floor) * scale
        commands.append(f"{pen}{x:g} {y:.1f}")
        pen = "L"
    return "".join(commands)


def _in_words(trend: Trend, values: list[float], unit: str | None) -> str:
    seen = [sample.status for sample in trend.samples if sample is not None]
    parts = [f"{word} {seen.count(status)}" for status, word in ((PASS, "pass"), (WARN, "warn"), (FAIL, "fail"))
             if status in seen]  # fmt: skip
    told = f"of {len(seen)} quarter minutes: {', '.join(parts)}"
    if values:
        told += f"; {_value(min(values), unit)} to {_value(max(values), unit)}"
    return _text(told, tag=False)


# --- the rest ---------------------------------------------------------------------------------------------------

_PASSWORDS = {
    RootPassword.CLAIMABLE: "It was generated, and nobody has claimed it yet. It is told once.",
    RootPassword.CLAIMED: "Claimed",
    RootPassword.EXPIRED: "Nobody claimed it until",
    RootPassword.GIVEN: "It is the one that was given at the first start.",
    RootPassword.FROM_IMPORT: "It is the one of the imported export.",
    RootPassword.UNKNOWN: "It is not known here: nothing is initialised yet, the data was there before, or this is a "
    "replica.",
}


def _password(snapshot: Snapshot) -> str:
    of = snapshot.root_password
    told = f"<p>{_PASSWORDS[of.state]}"
    if of.changed is not None:
        told += f" {_time(of.changed)}"
    if of.state is RootPassword.CLAIMED:
        told += "; from where, is told with the admin token.</p>"
    elif of.state is RootPassword.EXPIRED:
        told += ", and it was thrown away.</p>"
    else:
        told += "</p>"
    if of.state is RootPassword.CLAIMABLE:
        if of.expires is not None:
            told += f"<p>It can be claimed until {_time(of.expires)}.</p>"
        told += "<p>In the container, <code>sidecar claim</code> does it too.</p>"
    elif of.state is not RootPassword.UNKNOWN:
        told += "<p>If it is lost, <code>sidecar rotate</code> in the container sets a new one.</p>"
    return f'<h2>root’s password</h2><div data-state="{of.state}">{told}</div>'


def use(devpi: DevpiInfo | None, host: str) -> str:
    """How to use devpi-server, from a browser that calls this server `host`."""
    if devpi is None:
        return ""
    url, hint = _outside(devpi, host)
    if url is None:
        return (
            "<h2>Use it</h2><p>devpi-server listens on a Unix socket, behind a proxy of yours. With"
            " <code>--outside-url</code> this page can say how to reach it.</p>"
        )
    shown = _text(url, 300)
    return (
        f"<h2>Use it</h2><h3>Install</h3><pre>pip install --index-url {shown}/USER/INDEX/+simple/ PACKAGE</pre>"
        f"<h3>Log in and upload</h3><pre>devpi use {shown}\ndevpi login root\ndevpi use USER/INDEX\ndevpi upload</pre>"
        f"{hint}"
    )


_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_URL = re.compile(r"https?://[A-Za-z0-9._~:/\[\]@%+-]+")


def _outside(devpi: DevpiInfo, host: str) -> tuple[str | None, str]:
    """devpi-server's URL, and what is to be said to it. Only what a shell takes for one word gets into a command."""
    if devpi.outside_url is not None and _URL.fullmatch(devpi.outside_url):
        return devpi.outside_url.rstrip("/"), ""
    ports = [urlsplit(address).port for address in devpi.addresses if address.startswith("http")]
    if not ports:
        return None, ""
    match = _HOST.fullmatch(host)
    name = match[1] if match else "HOST"
    return f"http://{name}:{ports[0] or 80}", (
        "<p><small>Guessed from this page’s address and devpi-server’s own port. If clients reach it by another one,"
        " say so with <code>--outside-url</code>.</small></p>"
    )


def _replicas(said: ServerStatus | None, checks: tuple[Check, ...]) -> str:
    if said is None:
        return ""
    if said.primary_serial is not None or (said.role or "").upper() == "REPLICA":
        behind = None if said.primary_serial is None or said.serial is None else said.primary_serial - said.serial
        check = next(each for each in checks if each.name == "replication")
        lag = "unknown" if behind is None else _value(max(0, behind), "serials")
        return (
            "<h2>Replication</h2><p>This is a replica.</p>"
            f'<dl class="counts"><div><dt>Behind its primary</dt><dd>{lag}</dd></div>'
            f"<div><dt>Verdict</dt><dd>{_badge(check.status)}</dd></div></dl>"
        )
    if not said.polling_replicas:
        return ""
    rows = "".join(_replica(each, said.serial) for each in said.replicas[:_MANY])
    more = said.polling_replicas - min(len(said.replicas), _MANY)
    return (
        '<h2>Replicas</h2><table><thead><tr><th scope="col">Address</th><th scope="col">Behind</th>'
        f'<th scope="col">Last heard of</th></tr></thead><tbody>{rows}</tbody></table>'
        + (f"<p>and {more} more</p>" if more > 0 else "")
    )


def _replica(of: Replica, serial: int | None) -> str:
    lag = "unknown" if serial is None or of.serial is None else _value(max(0, serial - of.serial), "serials")
    heard = "unknown"
    if of.asked_at is not None and 0 <= of.asked_at < 4e9:
        heard = _time(datetime.fromtimestamp(int(of.asked_at), UTC))
    return f'<tr><th scope="row">{_text(of.address or "unknown", 60)}</th><td>{lag}</td><td>{heard}</td></tr>'


def _versions(devpi: DevpiInfo | None, said: ServerStatus | None, version: str) -> str:
    parts = [f"devpi-sidecar {_text(version, 50)}"]
    if devpi is not None:
        parts.insert(0, f"devpi-server {_text(devpi.version, 50)}, {_text(devpi.role, 20)}")
        parts += [f"{_text(name, 60)} {_text(of, 40)}" for name, of in devpi.plugins[:_MANY]]
    if said is not None and said.serial is not None:
        parts.append(f"serial {said.serial:,}")
    return f"<p>{' · '.join(parts)}</p>"


# --- words ------------------------------------------------------------------------------------------------------


def _text(text: str | None, limit: int = 300, *, tag: bool = True) -> str:
    """Text of unknown origin: no path on disk, one line, at most `limit` characters, its direction its own."""
    safe = html.escape(printable(public(text) or "", limit))
    return f"<bdi>{safe}</bdi>" if tag else safe


def _time(at: datetime) -> str:
    """The script adds how long ago that was."""
    return f'<time datetime="{rfc3339(at)}">{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC</time>'


def _for(since: datetime) -> str:
    """How long it has been so: the script's matter, for it changes by the second. Else since when."""
    return f'<span class="for">since <time data-for datetime="{rfc3339(since)}">{since.astimezone(UTC):%H:%M:%S}</time></span>'


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _value(value: float | None, unit: str | None) -> str:
    if value is None:
        return ""
    if unit == "seconds":
        return f"{1000 * value:.1f} ms" if value < 1 else f"{value:.1f} s"
    if unit == "bytes":
        return f"{_bytes(value)}"
    return f"{value:,.0f} {_text(unit, 30, tag=False)}"


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:,.0f} bytes" if unit == "bytes" else f"{count:.{0 if count >= 100 else 1}f} {unit}"
        count /= 1000
    raise AssertionError


_PAGE = """\
<!doctype html>
<html lang="en" data-epoch="{epoch}" data-edition="{edition}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>devpi</title>
<link rel="icon" href="page.svg" type="image/svg+xml">
<link rel="stylesheet" href="page.css?{edition}">
<script src="page.js?{edition}" defer></script>
</head>
<body>
<header><span class="name">devpi</span><span id="live" role="status"></span></header>
<main>
<section class="card">{headline}{phases}</section>
<section class="card">{import}</section>
<section class="card">{checks}</section>
<div class="pair">
<section class="card">{password}
<form id="claim" hidden autocomplete="off">
<label for="token">Admin token</label>
<div class="field"><input id="token" type="password" autocomplete="off" spellcheck="false" required maxlength="1024"
 aria-describedby="token-hint"><button type="submit">Claim</button></div>
<p id="token-hint" class="hint"><code>sidecar token</code> in the container prints it. It is sent, and not kept.</p>
</form>
<div id="answer" role="status"></div>
<div id="told" hidden>
<label for="secret">root’s password, told this once</label>
<div class="field"><input id="secret" readonly spellcheck="false" autocomplete="off"><button id="copy" type="button">Copy</button></div>
<p class="hint">Store it now: nobody can read it again. <button id="forget" type="button" class="plain">I have it, hide it</button></p>
</div>
</section>
<section class="card">{use}</section>
</div>
<section class="card">{replicas}</section>
</main>
<footer>{versions}
<p><a href="status">status</a> · <a href="health">health</a> · <a href="readyz?verbose">readyz</a></p>
<noscript><p>Without JavaScript this is a report of the moment it was made: reload it for a new one. The password can be
claimed with <code>sidecar claim</code>.</p></noscript>
</footer>
</body>
</html>
"""
