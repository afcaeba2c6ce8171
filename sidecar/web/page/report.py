"""The page's HTML, section by section: the whole page, and what `/events` sends when a section has changed.

Everything that comes from outside (archives, uploads, devpi-server, the request) goes through `words.text`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from string import Template

from sidecar.core import text
from sidecar.core.check import Check
from sidecar.core.history import CheckHistory
from sidecar.core.lifecycle import DevpiInfo, Notice, Phase, Snapshot, now
from sidecar.core.surroundings import Surroundings
from sidecar.devpi.server_status import ServerStatus
from sidecar.features.bootstrap.import_status import ImportStatus
from sidecar.features.bootstrap.preparation import Bootstrap
from sidecar.features.credentials import password_advice
from sidecar.features.credentials.keeper import Credentials
from sidecar.features.credentials.password_status import RootPassword, RootPasswordStatus, UnusablePasswords
from sidecar.features.health.monitor import Health
from sidecar.features.mirror import notice
from sidecar.features.mirror.notice import Mirror, Mirrors
from sidecar.features.numbers.amounts import Numbers
from sidecar.features.numbers.counting import Counting
from sidecar.web.context import Context
from sidecar.web.page import assets, guide, words
from sidecar.web.page.checklist import checklist
from sidecar.web.page.headline import headline, spoken, trouble, verdict
from sidecar.web.page.import_progress import progress
from sidecar.web.page.replicas import replicas
from sidecar.web.page.tally import tally

_MANY = 20
"""Archives, phases or replicas that are shown; the rest is counted."""


@dataclass(frozen=True, slots=True)
class View:
    """All that the page shows, at one instant."""

    snapshot: Snapshot
    checks: tuple[Check, ...]
    histories: tuple[CheckHistory, ...]
    said: ServerStatus | None
    """What devpi-server said of itself last."""
    version: str
    """The sidecar's."""
    name: str = "devpi"
    """What people call this instance."""
    surroundings: Surroundings = field(default_factory=lambda: Surroundings("devpi"))
    imported: ImportStatus = field(default_factory=ImportStatus)
    root_password: RootPasswordStatus = field(default_factory=RootPasswordStatus)
    unusable_passwords: UnusablePasswords | None = None
    hint_for_users: str | None = None
    """How to give those one that they can use."""
    numbers: Numbers = field(default_factory=Numbers)
    more: Mapping[str, str] = field(default_factory=dict)
    """The sections of `SECTIONS`."""
    at: datetime = field(default_factory=now)


SECTIONS: dict[str, Callable[[Context], str]] = {
    "mirrors": lambda context: _mirrors(context.of(Mirror).mirrors),
}
"""By their ids: sections that stand one below the other at the end of the page, each in a card of its own."""


def view(context: Context) -> View:
    """What there is to show now, from memory."""
    credentials = context.of(Credentials)
    return View(
        context.lifecycle.snapshot,
        context.board.checks(),
        context.board.history(),
        context.of(Health).server_status(),
        context.sidecar_version,
        context.name,
        context.surroundings,
        context.of(Bootstrap).imported,
        credentials.root_password,
        credentials.unusable_passwords,
        credentials.user_password_hint(),
        context.of(Counting).numbers(),
        {name: section(context) for name, section in SECTIONS.items()},
    )


def page(of: View, host: str, *, epoch: str, edition: str) -> str:
    """The whole page, for a browser that calls this server `host`."""
    roles = {"verdict": ' role="status" class="hidden"'}
    shown = {
        name: f'<div id="{name}" data-section{roles.get(name, "")}>{section}</div>'
        for name, section in (sections(of) | sections_for(of, host)).items()
    }
    cards = "".join(f'<section class="card">{shown[name]}</section>\n' for name in of.more)
    return Template(assets.read("page.html").decode()).substitute(
        **shown, more=cards, title=title(of), epoch=epoch, edition=edition
    )


def title(of: View) -> str:
    """The page's title, as HTML: a tab may show little more than the begin."""
    return f"{words.text(of.name, tag=False)}: {verdict(of.snapshot, of.checks, of.imported).title}"


def sections_for(of: View, host: str) -> dict[str, str]:
    """The sections that depend on how a browser calls this server, by their ids in the page."""
    return {"who": guide.who(of.snapshot, of.name, host), "use": guide.use(of.snapshot, host)}


def sections(of: View) -> dict[str, str]:
    """All other sections, by their ids in the page; an empty one isn't seen."""
    snapshot = of.snapshot
    return {
        "verdict": spoken(snapshot, of.checks, of.imported),
        "headline": headline(snapshot, of.checks, of.imported, of.surroundings),
        "phases": _phases(snapshot),
        "claim": _claim(of.root_password, of.surroundings),
        "import": progress(of.imported),
        "notices": _notices(snapshot.notices),
        "numbers": tally(of.numbers, of.at),
        "checks": checklist(of.checks, of.histories),
        "password": _root_password(of.root_password) + _unusable(of.unusable_passwords, of.hint_for_users),
        "replicas": replicas(of.said, of.checks, of.at),
        "versions": _versions(snapshot.devpi, of.said, of.version),
        **of.more,
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
            took = text.duration(begun[number + 1] - begun[number])
            items.append(f'<li class="done"><b>{phase}</b><span>{took}</span></li>')
        else:
            kind = "bad" if phase is Phase.FAILED else "good" if phase is Phase.READY else "wait"
            items.append(f'<li class="now {kind}" aria-current="step"><b>{phase}</b>{words.lasting(since)}</li>')
    return f'<h2 class="hidden">Phases</h2><ol class="phases">{"".join(items)}</ol>'


# --- notices ----------------------------------------------------------------------------------------------------


def _notices(notices: tuple[Notice, ...]) -> str:
    if not notices:
        return ""
    items = [f'<div class="trouble">{trouble(each.reason, each.hint)}</div>' for each in notices[:_MANY]]
    if (more := len(notices) - _MANY) > 0:
        items.append(f"<p>and {more} more</p>")
    return f"<h2>Notices</h2>{''.join(items)}"


# --- the rest ---------------------------------------------------------------------------------------------------

_PASSWORDS = {
    RootPassword.CLAIMABLE: "It was generated, and nobody has claimed it yet.",
    RootPassword.CLAIMED: "Claimed",
    RootPassword.EXPIRED: "Nobody claimed it until",
    RootPassword.PROVIDED: "It is the one that was given at the first start, unless it was changed since.",
    RootPassword.FROM_IMPORT: "It is the one of the imported export.",
    RootPassword.UNKNOWN: "It is not known here.",
}


def _unusable(of: UnusablePasswords | None, hint: str | None) -> str:
    """The users who need a new password, if there are any."""
    if of is None or not of.total:
        return ""
    names = ", ".join(words.text(name, 60) for name in of.users[:_MANY])
    more = f" and {of.total - len(of.users[:_MANY])} more" if of.total > len(of.users[:_MANY]) else ""
    count = "1 user needs" if of.total == 1 else f"{of.total} users need"
    return (
        f'<h2>Users who can&rsquo;t log in</h2><p class="unusable">{count} a new password, because this devpi-server '
        f"can&rsquo;t check the old hash: {names}{more}.</p>{_hint(hint)}"
    )


def _claim(root: RootPasswordStatus, around: Surroundings) -> str:
    """What stands above the form by which the password is claimed; empty where there is nothing to claim now."""
    if not password_advice.claimable(root):
        return ""
    until = "" if (expires := root.expires) is None else f" until {words.time(expires)}"
    claim, token = (words.text(around.inside(f"sidecar {name}"), tag=False) for name in ("claim", "token"))
    return (
        '<div data-state="claimable"><h2>Claim root&rsquo;s password</h2>'
        f"<p>It was generated, and can be claimed once{until}. <code>{claim}</code> prints it.</p>"
        f'<p id="token-hint">Here the admin token is needed, which <code>{token}</code> prints.</p></div>'
    )


def _root_password(of: RootPasswordStatus) -> str:
    hint = password_advice.root_password(of)
    if password_advice.claimable(of) or (of.state is RootPassword.UNKNOWN and hint is None):
        return ""
    said = f"<p>{_PASSWORDS[of.state]}"
    if of.state in (RootPassword.CLAIMED, RootPassword.EXPIRED) and of.changed is not None:
        said += f" {words.time(of.changed)}"
    said += ", and it was thrown away.</p>" if of.state is RootPassword.EXPIRED else "</p>"
    state = "unclaimable" if of.state is RootPassword.CLAIMABLE else of.state
    return f'<h2>root&rsquo;s password</h2><div data-state="{state}">{said}{_hint(hint)}</div>'


def _hint(hint: str | None) -> str:
    where = "In the container: " if hint and "`" in hint else ""
    return f'<p class="what-to-do">{where}{words.with_code(hint)}.</p>' if hint else ""


def _mirrors(mirrors: Mirrors | None) -> str:
    notes = "".join(f'<p class="mirror">{words.with_code(note)}</p>' for note in notice.notes(mirrors))
    return f"<h2>Mirrors</h2>{notes}" if notes else ""


def _versions(devpi: DevpiInfo | None, said: ServerStatus | None, version: str) -> str:
    parts = [f"devpi-sidecar {words.text(version, 50)}"]
    if devpi is not None:
        parts.insert(0, f"devpi-server {words.text(devpi.version, 50)}, {words.text(devpi.role, 20)}")
        parts += [f"{words.text(name, 60)} {words.text(of, 40)}" for name, of in devpi.plugins[:_MANY]]
    if said is not None and said.serial is not None:
        parts.append(f"serial {said.serial:,}")
    return f"<p>{' · '.join(parts)}</p>"
