"""The life of a container: which phase it is in, who may change it, and how others hear of it.

One `Lifecycle` owns the state. Everybody else reads its frozen `Snapshot`, or subscribes to changes.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime


class Phase(enum.StrEnum):
    """Where in its life the container is. `FAILED` can be reached from any of the others."""

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
    """What the child said of the devpi-server that it runs."""

    version: str
    role: str = "standalone"
    addresses: tuple[str, ...] = ()
    """`http://host:port` or `unix:path`, where it really listens."""
    plugins: tuple[tuple[str, str], ...] = ()
    outside_url: str | None = None
    """Where clients find it, as the operator said (--outside-url)."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that an operator should know of, although devpi-server serves all the same."""

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
    """The phases so far, this one included, each with its start; the last `KEPT` of them."""
    begun: tuple[float, ...] = ()
    """When each of them began, by the clock of the lifecycle: differences of `history` may be negative."""
    progress: str | None = None
    """How far the phase has come, in a few words; None: nobody counts."""
    notices: tuple[Notice, ...] = ()
    """Of this start, in their order; each is logged once."""
    devpi: DevpiInfo | None = None
    failure: Failure | None = None


def now() -> datetime:
    """The time, UTC, to the millisecond."""
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
"""Phases that a snapshot knows of: each restart of devpi-server adds two."""


@dataclass(slots=True)
class Lifecycle:
    """The one object that owns the phase. Not thread-safe: it lives on the event loop."""

    clock: Callable[[], float] = time.monotonic
    """Gives seconds that never go back."""
    snapshot: Snapshot = field(init=False)
    began: float = field(init=False)
    """When this life began, by `clock`."""
    first_ready: float | None = None
    """When it was ready for the first time; None: it was not yet."""
    _spent: dict[Phase, float] = field(default_factory=lambda: dict.fromkeys(Phase, 0.0))
    """Seconds in the phases that are over."""
    _listeners: list[Callable[[Snapshot, Snapshot], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        at, self.began = now(), self.clock()
        self.snapshot = Snapshot(Phase.STARTING, at, ((Phase.STARTING, at),), (self.began,))

    def enter(self, phase: Phase, failure: Failure | None = None) -> None:
        """Go to `phase`. Raises ValueError for a step that no container's life has."""
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
        """Seconds in each phase so far, this one included; they only grow, whatever the wall clock does."""
        now_in = {self.snapshot.phase: self.clock() - self.snapshot.begun[-1]}
        return {phase: seconds + now_in.get(phase, 0.0) for phase, seconds in self._spent.items()}

    def learn(self, devpi: DevpiInfo) -> None:
        """Take over what is known of the devpi-server that runs, or will."""
        self._become(replace(self.snapshot, devpi=devpi))

    def advance(self, progress: str) -> None:
        """Tell how far the phase has come."""
        if progress != self.snapshot.progress:
            self._become(replace(self.snapshot, progress=progress))

    def notice(self, *notices: Notice) -> None:
        """Add notices to the snapshot; one that is there already is left out."""
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
