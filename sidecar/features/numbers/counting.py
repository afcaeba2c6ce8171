"""The feature `numbers`: what there is, counted in the background. All of it is told from memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from sidecar.core.board import Board
from sidecar.core.feature import Json
from sidecar.core.lifecycle import Lifecycle, now
from sidecar.core.public import rfc3339
from sidecar.core.sample import Family
from sidecar.devpi.protocol import ContentsSeen, Message, Requests
from sidecar.features.health.checks.disk import Space
from sidecar.features.health.monitor import Health
from sidecar.features.hooks import Hooks
from sidecar.features.numbers import number_metrics
from sidecar.features.numbers.pace import Pace
from sidecar.features.numbers.requests import Answered
from sidecar.storage.usage import Usage, Used


@dataclass(frozen=True, slots=True)
class Contents:
    """How much devpi-server holds, as it was counted last. None: that failed."""

    users: int | None
    stages: int | None
    """Indexes to upload to."""
    mirrors: int | None
    projects: int | None
    """Projects of the stages: one that is in two of them counts twice."""
    at: datetime
    """When these numbers were new."""


@dataclass(frozen=True, slots=True)
class Served:
    """What devpi-server has answered since the container started."""

    requests: int
    per_second: float | None
    """Requests in the last minute; None: not known yet."""
    uploads: int
    last_upload: datetime | None
    """None: none since the start."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers at one instant; None: not known."""

    contents: Contents | None = None
    served: Served | None = None
    used: Used | None = None
    """What the serverdir takes."""
    space: Space | None = None
    """Of the serverdir's volume."""


class Counting(Hooks):
    """Counts, and hears what devpi-server has counted. Lives on the event loop."""

    name = "numbers"

    def __init__(self, lifecycle: Lifecycle, board: Board, health: Health) -> None:
        self._board = board
        self._health = health
        self._contents: Contents | None = None
        self._answered = Answered()
        self._pace = Pace(self._answered.total)
        self._usage = Usage(lifecycle, self._served)
        board.on_tick(self._pace.look)

    def hear(self, message: Message) -> None:
        """What devpi-server has counted."""
        if isinstance(message, Requests):
            self._answered.hear(message)
        elif isinstance(message, ContentsSeen):
            self._contents = Contents(**asdict(message), at=now())
            self._board.changed()

    async def devpi_down(self) -> None:
        """The next devpi-server counts its requests from nothing."""
        self._answered.process_ended()

    async def run(self) -> None:
        """Count the serverdir's bytes now and then."""
        await self._usage.run()

    def status(self) -> Json:
        """How much there is, how much it is used, how much room is left."""
        return {"numbers": as_json(self.numbers())}

    def samples(self) -> Iterable[Family]:
        """The same as metrics; these are also told of a devpi-server that does not run."""
        target = self._health.target()
        yield from number_metrics.contents(self._contents)
        yield from number_metrics.requests(self._answered.total())
        yield from number_metrics.used(self._usage.last)
        yield from number_metrics.space(None if target is None else target.space)

    def numbers(self) -> Numbers:
        """What is known now; nothing of a devpi-server that does not run."""
        if (target := self._health.target()) is None:
            return Numbers()
        pace = self._pace
        return Numbers(
            self._contents,
            Served(pace.requests(), pace.per_second(), pace.uploads(), pace.last_upload),
            self._usage.last,
            target.space,
        )

    def _served(self) -> Path | None:
        """The serverdir that a running devpi-server has; None: none runs."""
        target = self._health.target()
        return None if target is None else target.serving.serverdir


def as_json(of: Numbers) -> Json:
    """The numbers, as `/status` has them."""
    return {
        "contents": None if of.contents is None else _contents(of.contents),
        "requests": None
        if of.served is None
        else {
            "total": of.served.requests,
            "per_second": None if of.served.per_second is None else round(of.served.per_second, 2),
            "uploads": of.served.uploads,
            "last_upload": rfc3339(of.served.last_upload),
        },
        "volume": None if of.space is None else {"free_bytes": of.space.free, "size_bytes": of.space.size},
        "serverdir": None if of.used is None else {"used_bytes": of.used.bytes, "files": of.used.files},
    }


def _contents(of: Contents) -> Json:
    return {
        "projects": of.projects,
        "users": of.users,
        "indexes": of.stages,
        "mirrors": of.mirrors,
        "since": rfc3339(of.at),
    }
