"""The messages from the child: its answers, and its unasked reports."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Literal

from sidecar.devpi.message import Message

ROUTES = ("simple", "file", "upload", "api", "replication", "other")
"""The classes by which devpi-server's requests are counted."""
REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
"""The upper bounds of the buckets for their durations."""


class ImportState(enum.StrEnum):
    """The state of the import of `/devpi-init.d`."""

    NONE = "none"
    PENDING = "pending"
    EXTRACTING = "extracting"
    LOADING = "loading"
    INSTALLING = "installing"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True)
class Configured(Message):
    """What the flags mean, by devpi's own parser."""

    version: str
    serverdir: str
    addresses: list[str]
    """`http://host:port` or `unix:path`."""
    listen: list[list[Any]]
    """TCP sockets to bind: family, host and port of each, for IPv6 also flow and scope."""
    unix_socket: str | None
    """The path of a Unix socket to bind instead of TCP, as in devpi-server's flags."""
    unix_socket_mode: int
    """Permissions of its file."""
    backlog: int
    """Connections that the kernel queues at each socket."""
    replica: bool
    storage: str
    secretfile: str | None
    """The operator's own --secretfile."""
    plugins: list[list[str]]
    """Name and version of each."""
    outside_url: str | None = None
    """--outside-url: the URL for clients."""
    root_password: str | None = field(default=None, repr=False)
    """`root-passwd` of devpi's configuration file."""


@dataclass(frozen=True)
class Refused(Message):
    """The flags can't be used."""

    reason: str
    hint: str


@dataclass(frozen=True)
class Done(Message):
    """The flags only print a text (--help, --version), which was printed."""


@dataclass(frozen=True)
class Progress(Message):
    """The progress of an import; fields that are None have not changed."""

    state: str
    archives: list[dict[str, Any]] | None = None
    """More archives, after those reported before: one packet may not hold all."""
    ignored: list[str] | None = None
    """More ignored names."""
    left_out: dict[str, Any] | None = None
    """What is left out: `total`, and `first`, the first of it as fields of `LeftOut`."""
    digests: dict[str, str] | None = None
    """Name → SHA-256 of archives read since the last report."""
    counts: dict[str, list[int]] | None = None
    """`users`, `indexes`, `projects`, `files`, `bytes`, `extracted` → [done, total]."""
    current: str | None = None


@dataclass(frozen=True)
class Prepared(Message):
    """A complete state is in the target, and on disk."""

    root_password: str
    """`password`: the request's; `from_import`: the export's own; `none`: a replica has its primary's."""
    root_hash: str | None = None
    """SHA-256 of root's password hash, known not to be of the empty password."""


@dataclass(frozen=True)
class PrepareFailed(Message):
    """The state could not be made; the target's content is invalid."""

    reason: str
    hint: str
    archive: str | None = None
    member: str | None = None
    retryable: bool = False
    """It failed for lack of memory or disk: a retry may succeed."""
    exhausted: bool = False
    """Retryable, because memory or processes ran out."""


@dataclass(frozen=True)
class Listening(Message):
    """devpi-server accepts requests."""

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
    """The parameters of its derivation: `m=8,t=1,p=1`."""


@dataclass(frozen=True)
class PrimaryAnswered(Message):
    """The primary's last answer to this replica; sent when it differs from the one before."""

    refusal: str | None = None
    """`key`, `clock`, `role`, `uuid`, `serial`, `offline`, or `other`; None: it sent changes, or was not reached."""
    code: int | None = None
    """The HTTP status of a refusal."""


@dataclass(frozen=True)
class RootPasswordSeen(Message):
    """The state of root's password; sent when it changes."""

    state: str
    """As `Listening.root_password`; `unseen`: devpi's database can't be read."""


@dataclass(frozen=True)
class UnusableSeen(Message):
    """Users except root whose password hash devpi-server can't check; sent once, and when they change."""

    total: int
    users: list[str]
    """The first of them, by name."""


@dataclass(frozen=True)
class Noticed(Message):
    """A notice for the operator."""

    about: str
    """As `lifecycle.Notice.about`."""
    reason: str
    hint: str


@dataclass(frozen=True)
class MirrorsSeen(Message):
    """The mirrors without the project list of their upstream; sent once, and when they change."""

    without: int
    without_names: list[str]
    """The first of them, by name."""


@dataclass(frozen=True)
class UpstreamsSeen(Message):
    """The upstreams of devpi's mirrors that were used since the start; sent when changed, once a second at most."""

    total: int
    upstreams: list[dict[str, Any]]
    """The first of them by the index's name, each with

    - `index` (`root/pypi`), `url` (without credentials)
    - `state`: `up`, `failing` (the last request failed), or `down` (not asked until `next_try`)
    - `last_success`, `last_failure`, `next_try`: Unix time or null
    - `error` of the last failure while not `up`, else null: `kind` (`UpstreamErrorKind`), `reason`, `hint`
    - `list`, the upstream's list of projects: `off` (mirror_no_project_list), `missing`, `fresh` or `stale`; `list_at`
      (Unix time of the last refresh or null), `list_names` (their number or null), `list_error` (as `error`)
    - `answers` (number by HTTP status or `kind`), `durations` (number by bucket of `UPSTREAM_SECONDS`, the last without
      bound), `seconds` (sum of the durations)
    - `pages` and `files`: numbers of client requests by `hit` (from the cache), `miss` (from upstream), `stale` (an
      expired page, because upstream did not answer in time), `failed`
    - `bytes`: body bytes received from upstream
    """


UpstreamErrorKind = Literal[
    "refused",
    "name",
    "timeout",
    "trust",
    "tls",
    "proxy",
    "denied",
    "limited",
    "status",
    "forbidden",
    "cut",
    "too-large",
    "unreadable",
    "redirects",
]
"""What an error of `UpstreamsSeen` is."""
UPSTREAM_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""The buckets of `UpstreamsSeen`'s durations (upper bounds in seconds)."""


@dataclass(frozen=True)
class ContentsSeen(Message):
    """How much devpi-server holds; sent when a count differs from the one before. None: unknown."""

    users: int | None
    stages: int | None
    """Indexes to upload to."""
    mirrors: int | None
    projects: int | None
    """Projects of the stages: one that is in two stages counts twice."""


@dataclass(frozen=True)
class OpenFiles(Message):
    """Carries a descriptor of the sender's `/proc/self/fd`, to count its descriptors by; sent at its start.

    Only root could open that folder itself: the process is not dumpable (`sidecar.core.privacy`).
    """


@dataclass(frozen=True)
class Requests(Message):
    """All requests that devpi-server has answered so far, without the sidecar's own."""

    routes: dict[str, dict[str, Any]]
    """For each of `ROUTES`: `in_flight`, `statuses` (code → number), `durations` (number by bucket, the last without
    bound), `seconds` (the sum of the durations), `bytes` (of bodies sent), `received` (bytes of bodies received)."""


@dataclass(frozen=True)
class RootPasswordSet(Message):
    """The answer to `SetRootPassword`."""

    number: int
    error: str | None = None
    maybe_done: bool = False
    """The error occurred after the change may have been committed."""
    retryable: bool = False
    """It failed for lack of memory or threads: a retry may succeed."""
    root_hash: str | None = None


@dataclass(frozen=True)
class RootPasswordChecked(Message):
    """The answer to `CheckRootPassword`."""

    number: int
    holds: bool | None
    """None: unknown, because devpi's database fails or argon2 can't run."""


@dataclass(frozen=True)
class Drained(Message):
    """Its listeners are closed, and no request is running, or the grace is over."""

    cut: int
    """Connections that were still busy at the end of the grace."""
