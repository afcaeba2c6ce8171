"""The page's HTML, section by section: the whole page, and what `/events` sends when a section has changed.

A section is a template in `templates/`, and a function here that returns its values.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sidecar.core.check import Check
from sidecar.core.history import CheckHistory
from sidecar.core.lifecycle import Snapshot, now
from sidecar.core.surroundings import Surroundings
from sidecar.devpi.server_status import ServerStatus
from sidecar.features.bootstrap.import_status import ImportStatus
from sidecar.features.bootstrap.preparation import Bootstrap
from sidecar.features.credentials import password_advice
from sidecar.features.credentials.keeper import Credentials
from sidecar.features.credentials.password_status import RootPassword, RootPasswordStatus, UnusablePasswords
from sidecar.features.health.monitor import Health
from sidecar.features.mirror.following import Mirror
from sidecar.features.numbers.amounts import Numbers
from sidecar.features.numbers.counting import Counting
from sidecar.web.context import Context
from sidecar.web.page import guide
from sidecar.web.page.checklist import checklist
from sidecar.web.page.headline import Verdict, verdict
from sidecar.web.page.import_progress import progress
from sidecar.web.page.rendering import render, section
from sidecar.web.page.replicas import replicas
from sidecar.web.page.tally import tally
from sidecar.web.page.upstream_rows import upstreams

_MANY = 20
"""Phases that are shown."""
Values = Mapping[str, Hashable]
"""The values of a template; without any the section is empty, and the page doesn't show it."""


@dataclass(frozen=True, slots=True)
class View:
    """All that the page shows, at one time."""

    snapshot: Snapshot
    checks: tuple[Check, ...]
    histories: tuple[CheckHistory, ...]
    said: ServerStatus | None
    """devpi-server's last report of itself."""
    version: str
    """The sidecar's."""
    name: str = "devpi"
    """The name of this instance."""
    surroundings: Surroundings = field(default_factory=lambda: Surroundings("devpi"))
    imported: ImportStatus = field(default_factory=ImportStatus)
    root_password: RootPasswordStatus = field(default_factory=RootPasswordStatus)
    unusable_passwords: UnusablePasswords | None = None
    hint_for_users: str | None = None
    """How to set new ones."""
    numbers: Numbers = field(default_factory=Numbers)
    more: Mapping[str, Values] = field(default_factory=dict)
    """The values of `SECTIONS`."""
    at: datetime = field(default_factory=now)

    @property
    def verdict(self) -> Verdict:
        """The state, and why."""
        return verdict(self.snapshot, self.checks, self.imported)


SECTIONS: dict[str, Callable[[Context], Values]] = {
    "mirrors": lambda context: upstreams(context.of(Mirror).mirrors, now()),
}
"""Sections of features, by the names of their templates: the page shows them at its end, each in a card."""


def view(context: Context) -> View:
    """Return what there is to show now, from memory."""
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
        {name: values(context) for name, values in SECTIONS.items()},
    )


def page(of: View, host: str, *, epoch: str, edition: str) -> str:
    """Return the whole page, for a browser that calls this server `host`."""
    return render(
        "page",
        name=of.name,
        title=of.verdict.title,
        sections=sections(of) | sections_for(of, host),
        more=of.more,
        epoch=epoch,
        edition=edition,
    )


def sections_for(of: View, host: str) -> dict[str, str]:
    """Return the sections that depend on how a browser calls this server, by their ids in the page."""
    return _rendered({"who": guide.who(of.snapshot, of.name, host), "use": guide.use(of.snapshot, host)})


def sections(of: View) -> dict[str, str]:
    """Return all other sections, by their ids in the page."""
    return _rendered({**{name: values(of) for name, values in _SECTIONS.items()}, **of.more})


def _rendered(sections: Mapping[str, Values]) -> dict[str, str]:
    return {name: section(name, **values) if values else "" for name, values in sections.items()}


def _phases(snapshot: Snapshot) -> Values:
    begun = snapshot.begun
    done = [(phase, begun[i + 1] - begun[i]) for i, (phase, _) in enumerate(snapshot.history[:-1])]
    now, since = snapshot.history[-1]
    return {"done": tuple(done[1 - _MANY :]), "now": now, "since": since}


def _claim(root: RootPasswordStatus, around: Surroundings) -> Values:
    """What stands above the form; nothing if root's password can't be claimed now."""
    return {"expires": root.expires, "around": around} if password_advice.claimable(root) else {}


def _password(of: View) -> Values:
    root, users = of.root_password, of.unusable_passwords
    hint = password_advice.root_password(root)
    shown = not (password_advice.claimable(root) or (root.state is RootPassword.UNKNOWN and hint is None))
    if not shown and not (users and users.total):
        return {}
    return {"root": root if shown else None, "hint": hint, "users": users, "user_hint": of.hint_for_users}


_SECTIONS: dict[str, Callable[[View], Values]] = {
    "verdict": lambda of: {"verdict": of.verdict},
    "headline": lambda of: {
        "verdict": of.verdict,
        "phase": of.snapshot.phase,
        "since": of.snapshot.since,
        "around": of.surroundings,
    },
    "phases": lambda of: _phases(of.snapshot),
    "claim": lambda of: _claim(of.root_password, of.surroundings),
    "import": lambda of: progress(of.imported),
    "notices": lambda of: {"notices": of.snapshot.notices} if of.snapshot.notices else {},
    "numbers": lambda of: tally(of.numbers, of.at),
    "checks": lambda of: checklist(of.checks, of.histories),
    "password": _password,
    "replicas": lambda of: replicas(of.said, of.checks, of.at),
    "versions": lambda of: {
        "devpi": of.snapshot.devpi,
        "version": of.version,
        "serial": of.said and of.said.serial,
    },
}
"""All other sections. A screen reader reads `verdict` out when it changes: it has no figures, which always change."""
