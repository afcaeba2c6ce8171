"""The feature `mirror`: whether devpi-server's mirrors keep the list of their upstream's projects, and its cost."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from sidecar.core.board import Board
from sidecar.core.feature import Json
from sidecar.core.mirror_settings import MirrorSettings
from sidecar.core.public import public
from sidecar.core.terminal import printable
from sidecar.devpi.protocol import Message, MirrorsSeen, Serve
from sidecar.features.hooks import Hooks, Plan

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Named:
    """How many indexes, and the first of them by name; a name may have any characters."""

    total: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mirrors:
    """The mirrors with and without the list of all projects of their upstream."""

    with_list: Named = Named()
    without_list: Named = Named()


class Mirror(Hooks):
    """Reports the mirrors in `/status` and in the log. Lives on the event loop."""

    name = "mirror"

    def __init__(self, board: Board, settings: MirrorSettings) -> None:
        self.mirrors: Mirrors | None = None
        """None: not known yet, or offline."""
        self._board = board
        self._settings = settings

    async def launching(self, serve: Serve, plan: Plan) -> Serve:
        """Pass the settings of mirrors to devpi-server."""
        return replace(serve, mirror=self._settings.as_json())

    def hear(self, message: Message) -> None:
        """Take devpi-server's report of its mirrors."""
        if not isinstance(message, MirrorsSeen):
            return
        of = Mirrors(
            Named(message.with_list, tuple(message.with_list_names)),
            Named(message.without, tuple(message.without_names)),
        )
        before, self.mirrors = self.mirrors or Mirrors(), of
        self._board.changed()
        if of.with_list != before.with_list and of.with_list.total:
            log.warning("%s", printable(with_list(of.with_list), 2000))
        if of.without_list != before.without_list and of.without_list.total:
            log.info("%s", printable(without(of.without_list), 2000))

    def status(self) -> Json:
        """Return the mirrors' part of `/status`; null: not known yet."""
        return {"mirrors": None if self.mirrors is None else as_json(self.mirrors)}


def as_json(of: Mirrors) -> Json:
    """Return the mirrors as in `/status`."""
    return {
        "with_list": _named(of.with_list),
        "without_list": _named(of.without_list),
        "notes": [public(note) for note in notes(of)],
    }


def _named(of: Named) -> Json:
    return {"total": of.total, "indexes": [public(name) for name in of.names]}


def notes(of: Mirrors | None) -> list[str]:
    """Return a note on the mirrors of each kind that exists; none if they are not known yet."""
    if of is None:
        return []
    return [warning for warning in (with_list(of.with_list), without(of.without_list)) if warning]


def with_list(of: Named) -> str:
    """Return a note on mirrors that keep the list; "" if there are none."""
    if not of.total:
        return ""
    keep, first = ("keeps", of.names[0]) if of.total == 1 else ("keep", "NAME")
    return (
        f"{_names(of)} {keep} the list of the upstream's projects in memory and fetches it at each start: PyPI's takes "
        f"about 300 MiB. To drop it, run `devpi index {first} mirror_no_project_list=true`."
    )


def without(of: Named) -> str:
    """Return a note on mirrors without a list; "" if there are none."""
    if not of.total:
        return ""
    return (
        f"{_names(of)} {'has' if of.total == 1 else 'have'} no list of the upstream's projects: devpi-server requests "
        "every project that the index does not hold from the upstream, also names of other indexes and typos; the "
        "listing (`+simple/`) shows only cached projects."
    )


def _names(of: Named) -> str:
    more = f" and {of.total - len(of.names)} more" if of.total > len(of.names) else ""
    return ", ".join(of.names) + more
