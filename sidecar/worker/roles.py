"""Check that devpi-server's flags and the serverdir's `.nodeinfo` agree on its role.

devpi-server itself finds a contradiction only after the initialisation, when it opens its state (exit code 1).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from sidecar.core import files
from sidecar.storage.layout import Layout

if TYPE_CHECKING:
    from argparse import Namespace


class Contradiction(NamedTuple):
    """A contradiction, and the hint."""

    reason: str
    hint: str


@dataclass(frozen=True)
class Role:
    """The role that the flags ask for, and the role of the state in the serverdir."""

    asked: str
    """`--role`: `auto`, `primary`, `replica` or `standalone`."""
    url: str | None
    """`--primary-url`."""
    recorded: str | None
    """The role of the state in the serverdir; None: there is no state, or it can't be read."""
    recorded_url: str | None
    """The primary of that state, which is devpi's default for `--primary-url`."""

    @property
    def replica(self) -> bool:
        """Whether devpi-server will be a replica."""
        return "replica" in (self.asked, self.recorded if self.asked == "auto" else None) or self.url is not None

    def contradiction(self) -> Contradiction | None:
        """Return what devpi-server would reject later, or silently ignore."""
        if self.url is not None and (wrong := _wrong_url(self.url)):
            return wrong
        if self.recorded not in (None, "replica"):
            return self._with_other_state()
        if self.url is not None and self.asked not in ("auto", "replica"):
            return Contradiction(
                f"--role {self.asked} and --primary-url contradict each other: only a replica has a primary",
                f"remove --primary-url, or remove --role {self.asked} to run a replica",
            )
        if self.replica and self.url is None and not self.recorded_url:
            otherwise = "" if self.recorded else ", or remove --role replica"
            return Contradiction("a replica needs the URL of its primary", f"add --primary-url URL{otherwise}")
        return None

    def _with_other_state(self) -> Contradiction | None:
        asks = "--primary-url" if self.url is not None else "--role replica" if self.asked == "replica" else None
        if asks is None:
            return None
        also = " and --role replica" if asks == "--primary-url" and self.asked == "replica" else ""
        return Contradiction(
            f"{asks} asks for a replica, but the serverdir holds the state of a {self.recorded} devpi-server",
            f"remove {asks}{also} to serve that state, or give the replica a serverdir of its own (DEVPI_SERVERDIR)",
        )


def role_of(args: Namespace, serverdir: Path) -> Role:
    """Return the role from devpi's parsed flags and from the serverdir, which is only read."""
    info = _nodeinfo(serverdir)
    recorded = info.get("role")
    url = info.get("masterurl")
    return Role(
        asked=_current(args.role),
        url=args.primary_url or args.deprecated_master_url or None,
        recorded=_current(recorded) if isinstance(recorded, str) else None,
        recorded_url=url if isinstance(url, str) else None,
    )


def _current(role: str) -> str:
    return "primary" if role == "master" else role


def _wrong_url(url: str) -> Contradiction | None:
    """Return what is wrong with the URL, without the URL itself, which may contain a password."""
    try:
        parts = urlsplit(url)
        complete = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        complete = False
        parts = urlsplit("")
    if not complete:
        return Contradiction(
            "--primary-url is not a URL", "set a URL such as https://devpi.example.com or http://devpi:3141"
        )
    if parts.username is not None or parts.password is not None:
        return Contradiction(
            "--primary-url contains a user or a password, which devpi-server does not support",
            "remove both from the URL; primary and replica trust each other by the same --secretfile",
        )
    return None


def _nodeinfo(serverdir: Path) -> dict[str, object]:
    """Return devpi's record of the state, also of one that is being installed; empty if it is missing or unreadable.

    Errors of the serverdir are reported later, when it is locked.
    """
    paths, name = Layout(serverdir), ".nodeinfo"
    installed = os.path.lexists(paths.installation)
    for path in (paths.staged_state / name, serverdir / name) if installed else (serverdir / name,):
        try:
            content = files.read_file(path, 64 * 1024)
            value = None if content is None else json.loads(content)
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    return {}
