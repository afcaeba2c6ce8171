"""What is seen of devpi-server's mirrors: whether they keep the list of their upstream's projects, and what follows."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sidecar.core.board import Board
from sidecar.core.feature import Json
from sidecar.core.public import public
from sidecar.core.terminal import printable
from sidecar.devpi.protocol import Message, MirrorsSeen
from sidecar.features.hooks import Hooks

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Named:
    """Indexes: how many, and the first of them by name; a name is whatever devpi-server took for one."""

    total: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mirrors:
    """The mirrors of devpi-server, by whether they keep the list of all projects of their upstream."""

    with_list: Named = Named()
    without_list: Named = Named()


class Mirror(Hooks):
    """The feature `mirror`: brings what is seen of the mirrors to `/status` and to the log."""

    name = "mirror"

    def __init__(self, board: Board) -> None:
        self.mirrors: Mirrors | None = None
        """None: not looked at yet, or offline."""
        self._board = board

    def hear(self, message: Message) -> None:
        """What devpi-server has seen of its mirrors."""
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
        """The mirrors, and what follows from their lists; null: not looked at yet."""
        return {"mirrors": None if self.mirrors is None else as_json(self.mirrors)}


def as_json(of: Mirrors) -> Json:
    """The mirrors, as `/status` has them."""
    return {
        "with_list": _named(of.with_list),
        "without_list": _named(of.without_list),
        "notes": [public(note) for note in notes(of)],
    }


def _named(of: Named) -> Json:
    return {"total": of.total, "indexes": [public(name) for name in of.names]}


def notes(of: Mirrors | None) -> list[str]:
    """A sentence or two for the mirrors of each kind; none for a devpi-server without mirrors, or not looked at yet."""
    if of is None:
        return []
    return [warning for warning in (with_list(of.with_list), without(of.without_list)) if warning]


def with_list(of: Named) -> str:
    """What those cost that keep the list; "" where there are none."""
    if not of.total:
        return ""
    keep, first = ("keeps", of.names[0]) if of.total == 1 else ("keep", "NAME")
    return (
        f"{_names(of)} {keep} the list of the upstream's projects in memory, fetched anew at each start: PyPI's takes "
        f"about 300 MiB. `devpi index {first} mirror_no_project_list=true` goes without it."
    )


def without(of: Named) -> str:
    """What those cost that have none; "" where there are none."""
    if not of.total:
        return ""
    return (
        f"{_names(of)} {'has' if of.total == 1 else 'have'} no list of the upstream's projects: a name that the asked "
        "index does not hold is asked for there, names of other indexes and typos too; the listing (`+simple/`) shows "
        "cached names alone."
    )


def _names(of: Named) -> str:
    more = f" and {of.total - len(of.names)} more" if of.total > len(of.names) else ""
    return ", ".join(of.names) + more
