"""What the sidecar tells its child to do."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    """What --restrict-modify is where devpi's flags, environment and configuration are silent; "" leaves it off."""
    sidecar_host: str = "0.0.0.0"  # noqa: S104 - not bound here
    """SIDECAR_HOST."""
    sidecar_port: int = 0
    """SIDECAR_PORT; 0 is any free one."""
    known_variables: list[str] = field(default_factory=list)
    """The names of the settings' own variables, to be suggested for unknown ones."""
    unknown_variables: list[str] = field(default_factory=list)
    """Names of variables that begin as the settings' do, and are none."""


@dataclass(frozen=True)
class HoldLock(Message):
    """Keep the descriptors of the serverdir's lock that come with this packet, as long as you live."""


@dataclass(frozen=True)
class Initialise(Message):
    """Make a new state in `target`, in a process of its own. Answered with `Prepared` or `PrepareFailed`."""

    target: str
    password: str = field(repr=False)
    project_list: bool = False
    """root/pypi fetches the list of all projects of its upstream, as devpi has it."""


@dataclass(frozen=True)
class Import(Message):
    """Import the exports of `init_dir` into `target`; answered with `Progress`…, then as `Initialise`."""

    init_dir: str
    target: str
    scratch: str
    """Where archives are unpacked; on the volume of `target`."""
    password: str = field(repr=False)
    password_provided: bool
    """True: `password` is root's whatever the export says. False: only where the export has none or an empty one."""
    limits: dict[str, int | None]
    allow_unverified: bool
    strict: bool
    """Refuse what would be left out."""


@dataclass(frozen=True)
class Serve(Message):
    """Run devpi-server in this process, on the listening sockets that come with this packet.

    Answered with `Listening`, or an end of the process.
    """

    tmpdir: str
    secretfile: str = ""
    """Where its login secret is."""
    cheap_derivation: bool = False
    """The secret is random, so stretching it wins nothing."""
    known_root_hash: str | None = None
    """SHA-256 of a password hash of root's that is known not to be of the empty password."""
    probe_secret: str = field(default="", repr=False)
    """What the sidecar's own requests carry, see `worker.access_log`."""
    new_root_password: str | None = field(default=None, repr=False)
    """Set this before the first request is taken: a rotation that was cut short."""
    after_kill: bool = False
    """The last devpi-server here may have been killed: clear away what it left before the first request is taken."""


@dataclass(frozen=True)
class SetRootPassword(Message):
    """Change root's password in the running devpi-server. Answered with `RootPasswordSet`."""

    number: int
    """Of this request, so that a late answer is not taken for the next one's."""
    password: str = field(repr=False)
    secretfile_changed: bool
    """Read the login secret again, which ends all logins."""


@dataclass(frozen=True)
class Drain(Message):
    """Accept nobody any more, let running requests finish, then end with code 0."""

    grace: float
    """Seconds."""
    keep_listening: bool = False
    """Another process goes on with the listening sockets: leave it those who wait in the kernel's queue.

    False: accept them before the sockets are closed.
    """


@dataclass(frozen=True)
class CheckRootPassword(Message):
    """Say whether this is root's password in the running devpi-server. Answered with `RootPasswordChecked`."""

    number: int
    """Of this request, as in `SetRootPassword`."""
    password: str = field(repr=False)
