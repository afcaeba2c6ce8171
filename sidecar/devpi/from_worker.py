"""What the child answers the sidecar, and what it says unasked."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from sidecar.devpi.message import Message

ROUTES = ("simple", "file", "upload", "api", "replication", "other")
"""The classes into which devpi-server's requests are counted."""
REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
"""The bounds of the buckets in which their durations are counted."""


class ImportState(enum.StrEnum):
    """How far the import of `/devpi-init.d` has come."""

    NONE = "none"
    PENDING = "pending"
    EXTRACTING = "extracting"
    LOADING = "loading"
    INSTALLING = "installing"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True)
class Configured(Message):
    """devpi's own parser has understood the flags; this is what they mean."""

    version: str
    serverdir: str
    addresses: list[str]
    """`http://host:port` or `unix:path`."""
    listen: list[list[Any]]
    """What to bind for TCP: family, host and port of each, for IPv6 the flow and the scope too."""
    unix_socket: str | None
    """The path of a Unix socket to bind in place of TCP, as devpi-server's flags have it."""
    unix_socket_mode: int
    """Permissions of its file."""
    backlog: int
    """Connections that the kernel keeps at each socket until they are accepted."""
    replica: bool
    storage: str
    secretfile: str | None
    """The operator's own --secretfile."""
    plugins: list[list[str]]
    """Name and version of each."""
    outside_url: str | None = None
    """--outside-url: where clients find devpi-server."""
    root_password: str | None = field(default=None, repr=False)
    """`root-passwd` of devpi's configuration file."""


@dataclass(frozen=True)
class Refused(Message):
    """The flags can't be used."""

    reason: str
    hint: str


@dataclass(frozen=True)
class Done(Message):
    """The flags asked for a text (--help, --version), which has been printed."""


@dataclass(frozen=True)
class Progress(Message):
    """How far an import has come; fields that are None have not changed."""

    state: str
    archives: list[dict[str, Any]] | None = None
    """More archives, behind those told before: all of them may be too many for one packet."""
    ignored: list[str] | None = None
    """More names that mean nothing here."""
    left_out: dict[str, Any] | None = None
    """What is left out: `total`, and `first`, some of it as fields of `LeftOut`."""
    digests: dict[str, str] | None = None
    """Name → SHA-256 of archives that have been read since."""
    counts: dict[str, list[int]] | None = None
    """`users`, `indexes`, `projects`, `files`, `bytes`, `extracted` → [done, total]."""
    current: str | None = None


@dataclass(frozen=True)
class Prepared(Message):
    """A whole state is in the target, and on disk."""

    root_password: str
    """`password`: the one of the request; `from_import`: the export's own; `none`: a replica has its primary's."""
    root_hash: str | None = None
    """SHA-256 of root's password hash, known not to be of the empty password."""


@dataclass(frozen=True)
class PrepareFailed(Message):
    """The state could not be made; what is in the target is worthless."""

    reason: str
    hint: str
    archive: str | None = None
    member: str | None = None
    retryable: bool = False
    """It was for want of memory or disk, not for what was asked: another try may succeed."""
    exhausted: bool = False
    """Retryable, because memory or processes ran out."""


@dataclass(frozen=True)
class Listening(Message):
    """devpi-server takes requests."""

    addresses: list[str]
    role: str
    uuid: str
    root_password: str
    """`set`, `empty`, `absent` (no root user), `unusable` (a hash that devpi-server can't check), `unchecked` (argon2
    can't run), or `unknown` on a replica."""
    root_hash: str | None
    derived_key: str
    """SHA-256 of the key that signs logins."""
    argon2: str
    """The parameters with which it was derived: `m=8,t=1,p=1`."""


@dataclass(frozen=True)
class PrimaryAnswered(Message):
    """What the primary answered this replica last; said when it is another answer than before."""

    refusal: str | None = None
    """`key`, `clock`, `role`, `uuid`, `serial`, `offline`, or `other`; None: changes, or it was not reached."""
    code: int | None = None
    """The HTTP status of a refusal."""


@dataclass(frozen=True)
class RootPasswordSeen(Message):
    """What root's password is now; said when it is another one than before."""

    state: str
    """As `Listening.root_password`; `unseen`: devpi's database does not tell."""


@dataclass(frozen=True)
class UnusableSeen(Message):
    """Users, but for root, whose password hash devpi-server can't check; said once, and when they are others."""

    total: int
    users: list[str]
    """The first of them, by name."""


@dataclass(frozen=True)
class Noticed(Message):
    """Something that an operator should know of, unasked, at any time."""

    about: str
    """As `lifecycle.Notice.about`."""
    reason: str
    hint: str


@dataclass(frozen=True)
class MirrorsSeen(Message):
    """The mirrors by whether they keep the list of their upstream's projects; said once, and when they are others."""

    with_list: int
    with_list_names: list[str]
    """The first of them, by name."""
    without: int
    without_names: list[str]
    """The first of those without it, by name."""


@dataclass(frozen=True)
class ContentsSeen(Message):
    """How much devpi-server holds; said when it has been counted, and is something else than before. None: unknown."""

    users: int | None
    stages: int | None
    """Indexes to upload to."""
    mirrors: int | None
    projects: int | None
    """Projects of the stages: one that is in two of them counts twice."""


@dataclass(frozen=True)
class OpenFiles(Message):
    """With this packet comes a descriptor of the sender's own `/proc/self/fd`, unasked, at its start.

    Whoever has it can count the sender's descriptors. Nobody but root can open that folder of a process that is not
    dumpable (`sidecar.core.privacy`).
    """


@dataclass(frozen=True)
class Requests(Message):
    """All requests that devpi-server has answered so far, without the sidecar's own looks."""

    routes: dict[str, dict[str, Any]]
    """Of each of `ROUTES`: `in_flight`, `statuses` (code → number), `durations` (number by bucket, the last without
    bound), `seconds` (the sum of the durations), `bytes` (of bodies sent), `received` (bytes of bodies taken)."""


@dataclass(frozen=True)
class RootPasswordSet(Message):
    """The answer to `SetRootPassword`."""

    number: int
    error: str | None = None
    maybe_done: bool = False
    """There was an error after the change may have been committed."""
    retryable: bool = False
    """It was for lack of memory or threads: another try may succeed."""
    root_hash: str | None = None


@dataclass(frozen=True)
class RootPasswordChecked(Message):
    """The answer to `CheckRootPassword`."""

    number: int
    holds: bool | None
    """None: that can't be told, because devpi's database fails, or argon2 can't run."""


@dataclass(frozen=True)
class Drained(Message):
    """Its listeners are closed, and no request is running any more (or the grace is over)."""

    cut: int
    """Connections that were still busy at the end of the grace."""
