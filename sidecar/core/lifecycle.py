"""The phases of a container's life.

One `Lifecycle` owns the state. Everybody else reads its frozen `Snapshot` or subscribes to changes.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime


class Phase(enum.StrEnum):
    """The phase of the container's life. `FAILED` can follow any other."""

    STARTING = "starting"
    INITIALISING = "initialising"
    IMPORTING = "importing"
    LAUNCHING = "launching"
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the container is in `Phase.FAILED`."""

    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class DevpiInfo:
    """What the child reported about its devpi-server."""

    version: str
    role: str = "standalone"
    addresses: tuple[str, ...] = ()
    """`http://host:port` or `unix:path`, where it actually listens."""
    plugins: tuple[tuple[str, str], ...] = ()
    outside_url: str | None = None
    """The URL for clients, as set by the operator (--outside-url)."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A problem that an operator should know about although devpi-server serves."""

    about: str
    """`variable`, `configuration`, `search-index`, `import` or `root-password`."""
    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything about the container at one instant."""

    phase: Phase
    since: datetime
    history: tuple[tuple[Phase, datetime], ...] = ()
    """The last `KEPT` phases including this one, each with its start."""
    begun: tuple[float, ...] = ()
    """The start of each of them by the monotonic clock: differences of `history` may be negative."""
    progress: str | None = None
    """The progress of the phase, in a few words; None: not counted."""
    notices: tuple[Notice, ...] = ()
    """The notices since the start, in order; each is logged once."""
    devpi: DevpiInfo | None = None
    failure: Failure | None = None


def now() -> datetime:
    """The current time in UTC, to the millisecond."""
    at = datetime.now(UTC)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


_NEXT: dict[Phase, frozenset[Phase]] = {
    Phase.STARTING: frozenset({Phase.INITIALISING, Phase.IMPORTING, Phase.LAUNCHING, Phase.STOPPING}),
    Phase.INITIALISING: frozenset({Phase.LAUNCHING, Phase.STOPPING}),
    Phase.IMPORTING: frozenset({Phase.LAUNCHING, Phase.STOPPING}),
    Phase.LAUNCHING: frozenset({Phase.READY, Phase.STOPPING}),
    Phase.READY: frozenset({Phase.LAUNCHING, Phase.STOPPING}),
    Phase.STOPPING: frozenset(),
    Phase.FAILED: frozenset({Phase.STOPPING}),
}


KEPT = 100
"""Phases that a snapshot keeps: each restart of devpi-server adds two."""


@dataclass(slots=True)
class Lifecycle:
    """The owner of the phase. Not thread-safe: it lives on the event loop."""

    clock: Callable[[], float] = time.monotonic
    """Returns monotonic seconds."""
    snapshot: Snapshot = field(init=False)
    began: float = field(init=False)
    """The start of this life, by `clock`."""
    first_ready: float | None = None
    """When it became ready for the first time, by `clock`; None: not yet."""
    _spent: dict[Phase, float] = field(default_factory=lambda: dict.fromkeys(Phase, 0.0))
    """Seconds in completed phases."""
    _listeners: list[Callable[[Snapshot, Snapshot], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        at, self.began = now(), self.clock()
        self.snapshot = Snapshot(Phase.STARTING, at, ((Phase.STARTING, at),), (self.began,))

    def enter(self, phase: Phase, failure: Failure | None = None) -> None:
        """Go to `phase`. Raises ValueError if that can't follow the present phase."""
        before = self.snapshot.phase
        if phase is not Phase.FAILED and phase not in _NEXT[before]:
            raise ValueError(f"a container can't go from {before} to {phase}")
        at, began = now(), self.clock()
        self._spent[before] += began - self.snapshot.begun[-1]
        if phase is Phase.READY and self.first_ready is None:
            self.first_ready = began
        self._become(
            replace(
                self.snapshot,
                phase=phase,
                since=at,
                history=(*self.snapshot.history, (phase, at))[-KEPT:],
                begun=(*self.snapshot.begun, began)[-KEPT:],
                progress=None,
                failure=failure or self.snapshot.failure,
            )
        )

    def spent(self) -> dict[Phase, float]:
        """Seconds in each phase so far, including this one; they only grow, whatever the wall clock does."""
        now_in = {self.snapshot.phase: self.clock() - self.snapshot.begun[-1]}
        return {phase: seconds + now_in.get(phase, 0.0) for phase, seconds in self._spent.items()}

    def learn(self, devpi: DevpiInfo) -> None:
        """Set what is known about devpi-server, which may not run yet."""
        self._become(replace(self.snapshot, devpi=devpi))

    def advance(self, progress: str) -> None:
        """Set the progress of the phase."""
        if progress != self.snapshot.progress:
            self._become(replace(self.snapshot, progress=progress))

    def notice(self, *notices: Notice) -> None:
        """Add notices to the snapshot, without duplicates."""
        new = [notice for notice in dict.fromkeys(notices) if notice not in self.snapshot.notices]
        if new:
            self._become(replace(self.snapshot, notices=(*self.snapshot.notices, *new)))

    def _become(self, after: Snapshot) -> None:
        before, self.snapshot = self.snapshot, after
        for listener in self._listeners:
            listener(before, after)

    def subscribe(self, listener: Callable[[Snapshot, Snapshot], None]) -> None:
        """Call `listener(before, after)` at every change, in the event loop; it must not block or raise."""
        self._listeners.append(listener)
