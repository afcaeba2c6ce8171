"""The feature `mirror`: follows the upstreams of devpi-server's mirrors."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

from sidecar.core.board import Board
from sidecar.core.check import NOT_RUNNING, Verdict
from sidecar.core.feature import Json
from sidecar.core.lifecycle import now
from sidecar.core.mirror_settings import MirrorSettings
from sidecar.core.public import public
from sidecar.core.sample import Family
from sidecar.core.terminal import printable
from sidecar.devpi.protocol import Message, MirrorsSeen, Serve, UpstreamsSeen
from sidecar.features.hooks import Hooks, Plan, Running
from sidecar.features.mirror import upstream_check, upstream_metrics, upstream_state
from sidecar.features.mirror.totals import Totals
from sidecar.features.mirror.upstream_state import Upstream

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Named:
    """How many indexes, and the first of them by name; a name may have any characters."""

    total: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mirrors:
    """What is known of the mirrors of a devpi-server."""

    total: int = 0
    """Upstreams that were used since its start."""
    upstreams: tuple[Upstream, ...] = ()
    """The first of them."""
    without_list: Named = Named()
    """Mirrors without a list of their upstream's projects."""


class Mirror(Hooks):
    """Reports upstreams in the check `mirror`, `/status`, `/metrics` and the log. Lives on the event loop."""

    name = "mirror"

    def __init__(self, board: Board, settings: MirrorSettings) -> None:
        self.mirrors: Mirrors | None = None
        """None: not known yet, or devpi-server does not run."""
        self._board = board
        self._settings = settings
        self._totals = Totals()
        self._without_list: Named | None = None
        self._seen: tuple[Upstream, ...] | None = None
        self._total = 0
        self._runs = False
        self._garbled = False
        self._judged: Verdict | None = None
        board.declare(upstream_check.NAME, upstream_check.MEANING, gates=False)
        board.on_tick(self._judge)

    async def launching(self, serve: Serve, plan: Plan) -> Serve:
        """Pass the settings of mirrors on, and forget the upstreams of an earlier devpi-server."""
        self._forget()
        return replace(serve, mirror=self._settings.as_json())

    async def devpi_up(self, running: Running) -> None:
        """Judge its upstreams from now on."""
        self._runs = True
        self._judge()

    async def devpi_down(self) -> None:
        """Keep the counts: the next devpi-server starts at 0."""
        self._totals.process_ended()
        self._runs, self._judged = False, None
        self._forget()
        self._board.give_up(upstream_check.NAME, NOT_RUNNING)

    def hear(self, message: Message) -> None:
        """Take devpi-server's report of its mirrors and their upstreams."""
        if isinstance(message, MirrorsSeen):
            self._hear_mirrors(message)
        elif isinstance(message, UpstreamsSeen):
            try:
                seen = upstream_state.parse(message)
            except (ValueError, TypeError, KeyError, AttributeError):
                if not self._garbled:
                    log.exception("internal error: devpi-server's report of its upstreams can't be used")
                self._garbled = True
                return
            self._seen, self._total = self._totals.take(seen), message.total
            self._publish()
            self._judge()

    def status(self) -> Json:
        """Return the mirrors' part of `/status`; null: not known yet."""
        return {"mirrors": None if self.mirrors is None else as_json(self.mirrors)}

    def samples(self) -> Iterable[Family]:
        """Return the upstreams as metrics; the counts also while devpi-server does not run."""
        return upstream_metrics.families(self._seen or (), self._totals.total())

    def _hear_mirrors(self, message: MirrorsSeen) -> None:
        before = self._without_list
        self._without_list = Named(message.without, tuple(message.without_names))
        self._publish()
        if self._without_list.total and self._without_list != before:
            log.info("%s", printable(without(self._without_list), 2000))

    def _publish(self) -> None:
        self.mirrors = Mirrors(self._total, self._seen or (), self._without_list or Named())
        self._board.changed()

    def _forget(self) -> None:
        self.mirrors, self._seen, self._total = None, None, 0

    def _judge(self) -> None:
        """Push the verdict if it is another one; at each tick too, because lists age."""
        if not self._runs:
            return
        verdict = upstream_check.judge_upstreams(self._seen or (), now())
        if verdict != self._judged:
            self._judged = verdict
            self._board.push(upstream_check.NAME, verdict)


def as_json(of: Mirrors) -> Json:
    """Return the mirrors as in `/status`."""
    return {
        "total": of.total,
        "upstreams": [upstream_state.as_json(each) for each in of.upstreams],
        "without_list": {
            "total": of.without_list.total,
            "indexes": [public(name) for name in of.without_list.names],
        },
        "notes": [public(note) for note in notes(of)],
    }


def notes(of: Mirrors | None) -> list[str]:
    """Return notes on the mirrors; none if they are not known yet."""
    return [] if of is None or not of.without_list.total else [without(of.without_list)]


def without(of: Named) -> str:
    """Return a note on mirrors without a list of projects."""
    more = f" and {of.total - len(of.names)} more" if of.total > len(of.names) else ""
    return (
        f"{', '.join(of.names)}{more} {'has' if of.total == 1 else 'have'} no list of the upstream's projects: "
        "devpi-server requests every project that the index does not hold from the upstream, also names of other "
        "indexes and typos; the listing (`+simple/`) shows only cached projects."
    )
