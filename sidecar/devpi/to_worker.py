"""The messages to the child: what it shall do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sidecar.devpi.message import Message


@dataclass(frozen=True)
class Configure(Message):
    """Parse devpi-server's flags. Answered with `Configured` or `Refused`."""

    flags: list[str]
    serverdir: str | None
    """DEVPI_SERVERDIR."""
    default_serverdir: str
    port: int | None
    """DEVPI_PORT."""
    restrict_modify: str
    """--restrict-modify if devpi's flags, environment and configuration don't set it; "" leaves it unset."""
    sidecar_host: str = "0.0.0.0"  # noqa: S104 - not bound here
    """SIDECAR_HOST."""
    sidecar_port: int = 0
    """SIDECAR_PORT; 0: any free one."""
    known_variables: list[str] = field(default_factory=list)
    """The names of the settings' variables, to suggest for unknown ones."""
    unknown_variables: list[str] = field(default_factory=list)
    """Variables with a prefix of the settings that are no settings."""
    root_pypi: bool | None = None
    """DEVPI_ROOT_PYPI."""


@dataclass(frozen=True)
class HoldLock(Message):
    """Keep the descriptors of the serverdir's lock that this packet carries, until you exit."""


@dataclass(frozen=True)
class Initialise(Message):
    """Make a new state in `target`, in a forked process. Answered with `Prepared` or `PrepareFailed`."""

    target: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Import(Message):
    """Import the exports of `init_dir` into `target`; answered with `Progress`…, then as `Initialise`."""

    init_dir: str
    target: str
    scratch: str
    """The folder to unpack archives in; on the volume of `target`."""
    password: str = field(repr=False)
    password_provided: bool
    """True: `password` replaces the export's. False: it is used only if the export's is absent or empty."""
    limits: dict[str, int | None]
    allow_unverified: bool
    strict: bool
    """Refuse an import that would leave anything out."""


@dataclass(frozen=True)
class Serve(Message):
    """Run devpi-server in this process, on the listening sockets that this packet carries.

    Answered with `Listening`, or the process exits.
    """

    tmpdir: str
    secretfile: str = ""
    """The file of its login secret."""
    cheap_derivation: bool = False
    """The secret is random, so stretching it gains nothing."""
    known_root_hash: str | None = None
    """SHA-256 of a root password hash that is known not to be of the empty password."""
    probe_secret: str = field(default="", repr=False)
    """The secret that marks the sidecar's own requests, see `worker.access_log`."""
    new_root_password: str | None = field(default=None, repr=False)
    """Set this before the first request is accepted: a rotation was interrupted."""
    mirror: dict[str, Any] = field(default_factory=dict, repr=False)
    """Settings of the mirrors, `core.settings.MirrorSettings.as_json`; may have a password."""
    after_kill: bool = False
    """The last devpi-server here may have been killed: remove its leftovers before the first request is accepted."""


@dataclass(frozen=True)
class SetRootPassword(Message):
    """Change root's password in the running devpi-server. Answered with `RootPasswordSet`."""

    number: int
    """Identifies this request, so that a late answer is not taken for the next one's."""
    password: str = field(repr=False)
    secretfile_changed: bool
    """Reload the login secret, which ends all logins."""


@dataclass(frozen=True)
class Drain(Message):
    """Accept no new connections, let running requests finish, then exit with code 0."""

    grace: float
    """Seconds."""
    keep_listening: bool = False
    """Another process takes over the listening sockets: leave it the connections in the kernel's queue.

    False: accept them before the sockets are closed.
    """


@dataclass(frozen=True)
class CheckRootPassword(Message):
    """Check whether this is root's password in the running devpi-server. Answered with `RootPasswordChecked`."""

    number: int
    """As in `SetRootPassword`."""
    password: str = field(repr=False)
