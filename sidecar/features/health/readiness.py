"""Readiness: whether all gating checks pass, to wait for and for the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sidecar.core.board import Board
from sidecar.core.lifecycle import Lifecycle, Phase

log = logging.getLogger(__name__)


class Readiness:
    """Follows a board. Lives on the event loop."""

    def __init__(
        self, lifecycle: Lifecycle, board: Board, serves: Callable[[], bool], clock: Callable[[], float]
    ) -> None:
        """`serves`: whether a devpi-server is probed. `clock` returns seconds that never go back."""
        self._lifecycle = lifecycle
        self._board = board
        self._serves = serves
        self._clock = clock
        self._ready = asyncio.Event()
        self._unready_since: float | None = None
        board.on_push(self._pushed)

    @property
    def reached(self) -> bool:
        """Whether this devpi-server was ready."""
        return self._ready.is_set()

    def begin(self) -> None:
        """Start again: another devpi-server is probed, or none."""
        self._ready.clear()

    async def wait(self) -> None:
        """Return once no gating check fails and the phase serves; starts again with each `begin`."""
        await self._ready.wait()

    def _pushed(self) -> None:
        """Handle a verdict on any check."""
        blocking = self._board.blocking()
        if not self.reached and self._serves() and not blocking:
            self._ready.set()
        if self._lifecycle.snapshot.phase is not Phase.READY or bool(blocking) == (self._unready_since is not None):
            return
        if self._unready_since is None:
            self._unready_since = self._clock()
            log.warning("no longer ready: %s", ", ".join(check.name for check in blocking))
        else:
            log.info("ready again after %.1f s", self._clock() - self._unready_since)
            self._unready_since = None
