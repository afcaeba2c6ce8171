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


class ImportState(enum.StrEnum):
    """How far the import of `/devpi-init.d` has come."""

    NONE = "none"
    PENDING = "pending"
    EXTRACTING = "extracting"
    LOADING = "loading"
    INSTALLING = "installing"
    COMPLETED = "completed"
    FAILED = "failed"


class RootPassword(enum.StrEnum):
    """What can be said about root's password without saying it."""

    CLAIMABLE = "claimable"
    CLAIMED = "claimed"
    EXPIRED = "expired"
    PROVIDED = "provided"
    FROM_IMPORT = "from_import"
    UNKNOWN = "unknown"


class PasswordChange(enum.StrEnum):
    """How root's password can be changed, as far as the running devpi-server decides it."""

    NOT_NOW = "not_now"
    """devpi-server does not run."""
    HERE = "here"
    KEEPING_LOGINS = "keeping_logins"
    """Here, but the login secret is the operator's own, so that logins can't be ended."""
    AT_PRIMARY = "at_primary"
    """This is a replica."""


@dataclass(frozen=True, slots=True)
class Archive:
    """One archive or directory of `/devpi-init.d`."""

    name: str
    bytes: int
    sha256: str | None = None
    """Digest of the archive; None until it has been read."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that the import has left out alone, because to load it would not be safe."""

    archive: str
    member: str
    """A file by its path in the archive or in `dataindex.json`, or what else it is."""
    reason: str


@dataclass(frozen=True, slots=True)
class Count:
    """How many of how many."""

    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class ImportFailure:
    """Why an import failed."""

    reason: str
    hint: str
    archive: str | None = None
    member: str | None = None


@dataclass(frozen=True, slots=True)
class ImportStatus:
    """The import in full; kept across restarts."""

    state: ImportState = ImportState.NONE
    archives: tuple[Archive, ...] = ()
    ignored: tuple[str, ...] = ()
    """Names in `/devpi-init.d` that are not exports."""
    left_out_total: int = 0
    left_out: tuple[LeftOut, ...] = ()
    """The first of what was left out."""
    users: Count = Count()
    indexes: Count = Count()
    projects: Count = Count()
    files: Count = Count()
    bytes: Count = Count()
    extracted: Count = Count()
    """Bytes of the archives read so far while extracting."""
    current: str | None = None
    """The user, index or project being loaded."""
    rate: float | None = None
    """Files per second while loading."""
    eta_seconds: float | None = None
    started: datetime | None = None
    finished: datetime | None = None
    error: ImportFailure | None = None


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
class RootPasswordStatus:
    """The state of the generated root password; never the password."""

    state: RootPassword = RootPassword.UNKNOWN
    expires: datetime | None = None
    changed: datetime | None = None
    """When it was claimed, or when it expired."""
    claimed_from: str | None = None
    change: PasswordChange = PasswordChange.NOT_NOW
    """See `sidecar.core.advice`, which words it."""


@dataclass(frozen=True, slots=True)
class UnusablePasswords:
    """Users, but for root, whose password hash this devpi-server can't check: they need a new password."""

    total: int
    users: tuple[str, ...] = ()
    """The first of them, by name; a name is whatever devpi-server took for one."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that an operator should know of, although devpi-server serves all the same."""

    about: str
    """`variable`, `configuration`, `search-index`, `import` or `root-password`."""
    reason: str
    hint: str


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
class Snapshot:
    """Everything about the container at one instant."""

    phase: Phase
    since: datetime
    history: tuple[tuple[Phase, datetime], ...] = ()
    """The phases so far, this one included, each with its start."""
    begun: tuple[float, ...] = ()
    """When each of them began, by the clock of the lifecycle: differences of `history` may be negative."""
    imported: ImportStatus = ImportStatus()
    root_password: RootPasswordStatus = RootPasswordStatus()
    unusable_passwords: UnusablePasswords | None = None
    """None: not looked at yet, or this is a replica."""
    notices: tuple[Notice, ...] = ()
    """Of this start, in their order; each is logged once."""
    mirrors: Mirrors | None = None
    """None: not looked at yet, or offline."""
    contents: Contents | None = None
    """None: not counted yet."""
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


@dataclass(slots=True)
class Lifecycle:
    """The one object that owns the phase. Not thread-safe: it lives on the event loop."""

    clock: Callable[[], float] = time.monotonic
    """Gives seconds that never go back."""
    snapshot: Snapshot = field(init=False)
    _listeners: list[Callable[[Snapshot, Snapshot], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        at = now()
        self.snapshot = Snapshot(Phase.STARTING, at, ((Phase.STARTING, at),), (self.clock(),))

    def enter(self, phase: Phase, failure: Failure | None = None) -> None:
        """Go to `phase`. Raises ValueError for a step that no container's life has."""
        before = self.snapshot.phase
        if phase is not Phase.FAILED and phase not in _NEXT[before]:
            raise ValueError(f"a container can't go from {before} to {phase}")
        at = now()
        history = (*self.snapshot.history, (phase, at))
        begun = (*self.snapshot.begun, self.clock())
        failure = failure or self.snapshot.failure
        self.update(phase=phase, since=at, history=history, begun=begun, failure=failure)

    def spent(self) -> dict[Phase, float]:
        """Seconds in each phase so far, this one included; they only grow, whatever the wall clock does."""
        begun = self.snapshot.begun
        spent = dict.fromkeys(Phase, 0.0)
        for (phase, _), begin, end in zip(self.snapshot.history, begun, (*begun[1:], self.clock()), strict=True):
            spent[phase] += end - begin
        return spent

    def update(self, **changes: object) -> None:
        """Replace fields of the snapshot, and tell all who listen."""
        before, self.snapshot = self.snapshot, replace(self.snapshot, **changes)  # type: ignore[arg-type]
        for listener in self._listeners:
            listener(before, self.snapshot)

    def notice(self, *notices: Notice) -> None:
        """Add notices to the snapshot; one that is there already is left out."""
        new = [notice for notice in dict.fromkeys(notices) if notice not in self.snapshot.notices]
        if new:
            self.update(notices=(*self.snapshot.notices, *new))

    def subscribe(self, listener: Callable[[Snapshot, Snapshot], None]) -> None:
        """Call `listener(before, after)` at every change, in the event loop; it must not block or raise."""
        self._listeners.append(listener)
