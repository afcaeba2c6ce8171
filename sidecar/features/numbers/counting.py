"""The feature `numbers`: counts in the background, and answers from memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from sidecar.core.board import Board
from sidecar.core.feature import Json
from sidecar.core.lifecycle import Lifecycle, now
from sidecar.core.sample import Family
from sidecar.devpi.protocol import ContentsSeen, Message, Requests
from sidecar.features.health.monitor import Health
from sidecar.features.hooks import Hooks
from sidecar.features.numbers import amounts, number_metrics
from sidecar.features.numbers.amounts import Contents, Numbers, Served
from sidecar.features.numbers.answered import Answered
from sidecar.features.numbers.pace import Pace
from sidecar.storage.usage import Usage


class Counting(Hooks):
    """Counts, and takes devpi-server's counts. Lives on the event loop."""

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
        """Take devpi-server's counts."""
        if isinstance(message, Requests):
            self._answered.hear(message)
        elif isinstance(message, ContentsSeen):
            self._contents = Contents(**asdict(message), at=now())
            self._board.changed()

    async def devpi_down(self) -> None:
        """Keep the counts: the next devpi-server starts at 0."""
        self._answered.process_ended()

    async def run(self) -> None:
        """Count the serverdir's bytes at intervals."""
        await self._usage.run()

    def status(self) -> Json:
        """Return the numbers' part of `/status`."""
        return {"numbers": amounts.as_json(self.numbers())}

    def samples(self) -> Iterable[Family]:
        """Return the numbers as metrics, also while devpi-server does not run."""
        target = self._health.target()
        yield from number_metrics.contents(self._contents)
        yield from number_metrics.requests(self._answered.total())
        yield from number_metrics.used(self._usage.last)
        yield from number_metrics.space(None if target is None else target.space)

    def numbers(self) -> Numbers:
        """Return the present numbers; all None while devpi-server does not run."""
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
        """Return the serverdir of a running devpi-server; None: none runs."""
        target = self._health.target()
        return None if target is None else target.serving.serverdir
