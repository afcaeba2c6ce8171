"""What is seen of devpi-server's mirrors: whether they keep the list of their upstream's projects, and what follows."""

from __future__ import annotations

import logging

from sidecar.core.lifecycle import Lifecycle, Mirrors, Named
from sidecar.core.terminal import printable
from sidecar.devpi.protocol import MirrorsSeen

log = logging.getLogger(__name__)


class Follower:
    """Brings what the child sees to `/status` and to the log. Lives on the event loop."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    def hear(self, seen: MirrorsSeen) -> None:
        """What the child has seen."""
        of = Mirrors(Named(seen.with_list, tuple(seen.with_list_names)), Named(seen.without, tuple(seen.without_names)))
        before = self._lifecycle.snapshot.mirrors or Mirrors()
        self._lifecycle.update(mirrors=of)
        if of.with_list != before.with_list and of.with_list.total:
            log.warning("%s", printable(with_list(of.with_list), 2000))
        if of.without_list != before.without_list and of.without_list.total:
            log.info("%s", printable(without(of.without_list), 2000))


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
