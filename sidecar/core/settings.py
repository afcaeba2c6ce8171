"""Parses the environment into one frozen `Settings` and reports all errors together.

Nothing else in the sidecar reads the environment, except the `sidecar` commands, which read the runtime directory and
the terminal's abilities. devpi's own parser parses devpi-server's flags in the child (`sidecar.worker.__main__`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sidecar.core import discovery, mirror_settings, parsers, terminal, variables
from sidecar.core.environment import SERVICE_LINKED, Problem, Reader
from sidecar.core.mirror_settings import MirrorSettings

SECRET_VARIABLES = frozenset(
    {
        "DEVPI_PASSWORD",
        "DEVPI_PASSWORD_FILE",
        "SIDECAR_ADMIN_TOKEN",
        "SIDECAR_ADMIN_TOKEN_FILE",
        "DEVPI_MIRROR_URL",
        "DEVPI_MIRROR_USER",
        "DEVPI_MIRROR_PASSWORD",
        "DEVPI_MIRROR_PASSWORD_FILE",
        "DEVPISERVER_ROOT_PASSWD",
        "DEVPISERVER_ROOT_PASSWD_HASH",
    }
)
"""Variables that are never passed to a child process. A URL may have a password, and a user may be a token."""


class SettingsError(Exception):
    """Some settings are invalid. `problems` has all errors."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the sidecar listens."""

    host: str = "0.0.0.0"  # noqa: S104 - a container's port is published by choice of its operator
    """Address (SIDECAR_HOST)."""
    port: int = 3142
    """TCP port (SIDECAR_PORT); 0: any free port."""


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """TLS on the sidecar's port, if a certificate is set."""

    cert: Path | None = None
    """A PEM file: the certificate, then its intermediates (SIDECAR_TLS_CERT)."""
    key: Path | None = None
    """Its private key, as PEM without a passphrase (SIDECAR_TLS_KEY); None: in the certificate's file."""
    client_ca: Path | None = None
    """CAs as PEM; the admin routes on the port require a client certificate of theirs (SIDECAR_TLS_CLIENT_CA)."""


@dataclass(frozen=True, slots=True)
class ImportSettings:
    """The import of `DEVPI_INIT_DIR` into an empty serverdir, and the limits of its archives."""

    init_dir: Path = Path("/devpi-init.d")
    """Where the exports are (DEVPI_INIT_DIR)."""
    exit_on_failure: bool = False
    """Exit with code 3 after a failed import instead of staying up, not ready (SIDECAR_ON_IMPORT_FAILURE=exit)."""
    max_members: int = 1_000_000
    """Members of one archive (SIDECAR_IMPORT_MAX_MEMBERS)."""
    max_member_bytes: int = 8 * 2**30
    """Unpacked bytes of one member (SIDECAR_IMPORT_MAX_MEMBER_SIZE)."""
    max_total_bytes: int | None = None
    """Unpacked bytes of all archives together; None: free space less 10 % (SIDECAR_IMPORT_MAX_TOTAL_SIZE)."""
    max_ratio: int = 200
    """Unpacked bytes per compressed byte, checked above 32 MiB (SIDECAR_IMPORT_MAX_RATIO)."""
    max_index_bytes: int = 256 * 2**20
    """Bytes of a dataindex.json, which is read into memory (SIDECAR_IMPORT_MAX_INDEX_SIZE)."""
    allow_unverified: bool = False
    """Import release files without a digest in the export (SIDECAR_IMPORT_ALLOW_UNVERIFIED)."""
    ignore_init_files: bool = False
    """Start despite archives in `init_dir` that can't be imported, or are not, without a warning
    (SIDECAR_IGNORE_INIT_FILES)."""
    strict: bool = False
    """Refuse an import that would leave out unsafe content (SIDECAR_IMPORT_STRICT)."""


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """The probes behind readiness."""

    interval: float = 2.0
    """Seconds between two probes of devpi-server (SIDECAR_MONITOR_INTERVAL)."""
    request_timeout: float = 5.0
    """Seconds after which an unanswered probe counts as slow (SIDECAR_MONITOR_TIMEOUT)."""
    dead_after: float = 30.0
    """Seconds without any answer after which a slow devpi-server counts as dead (SIDECAR_MONITOR_DEAD_AFTER)."""
    disk_warn_bytes: int = 1 * 2**30
    """Free bytes on the serverdir's volume below which the `disk` check warns (SIDECAR_DISK_WARN)."""


@dataclass(frozen=True, slots=True)
class StopSettings:
    """Shutdown."""

    delay: float = 0.0
    """Seconds to stay up, not ready, before the listener closes: load balancers lag (SIDECAR_STOP_DELAY)."""
    grace: float = 25.0
    """Seconds for running transfers to finish and to be delivered (SIDECAR_STOP_GRACE)."""


@dataclass(frozen=True, slots=True)
class CredentialSettings:
    """Secrets set by the operator, and the lifetime of an unclaimed password."""

    root_password: str | None = field(default=None, repr=False)
    """root's password at initialisation (DEVPI_PASSWORD, DEVPI_PASSWORD_FILE)."""
    admin_token: str | None = field(default=None, repr=False)
    """The bearer token of the admin routes (SIDECAR_ADMIN_TOKEN, SIDECAR_ADMIN_TOKEN_FILE)."""
    claim_ttl: float | None = None
    """Seconds after which an unclaimed root password expires; None: never (SIDECAR_CLAIM_TTL)."""
    secret_is_random: bool = False
    """The operator's login secret (--secretfile, or the serverdir's .secret) has 256 random bits, as devpi-gen-secret
    generates them, so devpi need not stretch it, which takes 10 CPU-seconds and 512 MiB. Set the same value on a
    primary and its replicas (SIDECAR_SECRET_IS_RANDOM)."""
    allow_empty_root: bool = False
    """Accept an empty root password in existing data (SIDECAR_ALLOW_EMPTY_ROOT)."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The log of the sidecar and devpi-server, on stdout."""

    json: bool = False
    """One JSON object per line instead of text (SIDECAR_LOG_FORMAT=json)."""
    color: bool = True
    """Colour the levels on a terminal (NO_COLOR=1 and TERM=dumb disable it)."""
    level: str = "INFO"
    """The lowest level that is logged (SIDECAR_LOG_LEVEL)."""
    access: bool = False
    """Log each request to the sidecar (SIDECAR_LOG_ACCESS)."""

    @property
    def style(self) -> str:
        """The style for `logging.configure`."""
        return "json" if self.json else "color" if self.color else "text"


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, validated."""

    runtime_dir: Path
    """A folder owned by this user, 0700, for files that must not outlive the container (SIDECAR_RUNTIME_DIR)."""
    name: str | None = None
    """The display name of this instance (SIDECAR_NAME); None: its host name."""
    in_kubernetes: bool = False
    """Whether Kubernetes runs this, detected by the variable that it sets in every container."""
    serverdir: Path | None = None
    """DEVPI_SERVERDIR; None: devpi's flags, DEVPISERVER_SERVERDIR or devpi's configuration file set it, otherwise it is
    `DEFAULT_SERVERDIR`."""
    devpi_port: int | None = None
    """DEVPI_PORT, as in the older image; None: devpi's flags decide."""
    restrict_modify: str = "root"
    """devpi-server's --restrict-modify if its own flags don't set it; empty: no restriction (DEVPI_RESTRICT_MODIFY)."""
    mirror: MirrorSettings = field(default_factory=MirrorSettings)
    listen: Listen = field(default_factory=Listen)
    tls: TlsSettings = field(default_factory=TlsSettings)
    imports: ImportSettings = field(default_factory=ImportSettings)
    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    stop: StopSettings = field(default_factory=StopSettings)
    credentials: CredentialSettings = field(default_factory=CredentialSettings)
    log: LogSettings = field(default_factory=LogSettings)
    ignored_service_links: tuple[str, ...] = ()
    """Variables of Kubernetes' service links (`tcp://…`) that were ignored."""
    known_variables: frozenset[str] = field(default=frozenset(), repr=False, compare=False)
    """The names of all variables that are read here."""
    unknown_variables: tuple[str, ...] = ()
    """Names of variables with the same prefixes that nothing reads; their values may be secrets."""


DEFAULT_SERVERDIR = Path("/var/lib/devpi")
"""The serverdir if no setting, flag, variable or configuration file sets it."""


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for devpi-server and other tools: `environ` without secrets and service links."""
    return {
        name: value
        for name, value in environ.items()
        if name not in SECRET_VARIABLES
        and not (name in SERVICE_LINKED and variables.is_service_address(value))
        and name not in {"DEVPI_SERVERDIR", "DEVPI_PORT"}  # the worker gets them checked
    }


def from_environ(environ: Mapping[str, str]) -> Settings:
    """Read and check all settings.

    Raises `SettingsError` with all errors. Reads only the files that `…_FILE` variables and DEVPI_MIRROR_CA name.
    """
    read = Reader(environ)
    base = Settings(runtime_dir=Path(discovery.runtime_dir(environ)))
    settings = Settings(
        runtime_dir=read.value("SIDECAR_RUNTIME_DIR", parsers.absolute_path, base.runtime_dir),
        name=read.value("SIDECAR_NAME", parsers.name, base.name),
        in_kubernetes=bool(environ.get("KUBERNETES_SERVICE_HOST")),
        serverdir=read.value("DEVPI_SERVERDIR", parsers.absolute_path, None),
        devpi_port=read.value("DEVPI_PORT", parsers.fixed_port, None),
        restrict_modify=read.text("DEVPI_RESTRICT_MODIFY", base.restrict_modify),
        mirror=mirror_settings.from_reader(read),
        listen=Listen(
            host=read.value("SIDECAR_HOST", parsers.host, base.listen.host),
            port=read.value("SIDECAR_PORT", parsers.port, base.listen.port),
        ),
        tls=TlsSettings(
            cert=read.value("SIDECAR_TLS_CERT", parsers.absolute_path, base.tls.cert),
            key=read.value("SIDECAR_TLS_KEY", parsers.absolute_path, base.tls.key),
            client_ca=read.value("SIDECAR_TLS_CLIENT_CA", parsers.absolute_path, base.tls.client_ca),
        ),
        imports=ImportSettings(
            init_dir=read.value("DEVPI_INIT_DIR", parsers.absolute_path, base.imports.init_dir),
            exit_on_failure=read.value("SIDECAR_ON_IMPORT_FAILURE", parsers.choice("stay", "exit"), "stay") == "exit",
            max_members=read.value("SIDECAR_IMPORT_MAX_MEMBERS", parsers.count, base.imports.max_members),
            max_member_bytes=read.value("SIDECAR_IMPORT_MAX_MEMBER_SIZE", parsers.size, base.imports.max_member_bytes),
            max_total_bytes=read.value("SIDECAR_IMPORT_MAX_TOTAL_SIZE", parsers.size, base.imports.max_total_bytes),
            max_ratio=read.value("SIDECAR_IMPORT_MAX_RATIO", parsers.count, base.imports.max_ratio),
            max_index_bytes=read.value("SIDECAR_IMPORT_MAX_INDEX_SIZE", parsers.size, base.imports.max_index_bytes),
            allow_unverified=read.value(
                "SIDECAR_IMPORT_ALLOW_UNVERIFIED", parsers.switch, base.imports.allow_unverified
            ),
            ignore_init_files=read.value("SIDECAR_IGNORE_INIT_FILES", parsers.switch, base.imports.ignore_init_files),
            strict=read.value("SIDECAR_IMPORT_STRICT", parsers.switch, base.imports.strict),
        ),
        monitor=MonitorSettings(
            interval=read.value("SIDECAR_MONITOR_INTERVAL", parsers.positive_duration, base.monitor.interval),
            request_timeout=read.value(
                "SIDECAR_MONITOR_TIMEOUT", parsers.positive_duration, base.monitor.request_timeout
            ),
            dead_after=read.value("SIDECAR_MONITOR_DEAD_AFTER", parsers.positive_duration, base.monitor.dead_after),
            disk_warn_bytes=read.value("SIDECAR_DISK_WARN", parsers.size, base.monitor.disk_warn_bytes),
        ),
        stop=StopSettings(
            delay=read.value("SIDECAR_STOP_DELAY", parsers.duration, base.stop.delay),
            grace=read.value("SIDECAR_STOP_GRACE", parsers.duration, base.stop.grace),
        ),
        credentials=CredentialSettings(
            root_password=read.secret("DEVPI_PASSWORD", parsers.password),
            admin_token=read.secret("SIDECAR_ADMIN_TOKEN", parsers.token),
            claim_ttl=read.value("SIDECAR_CLAIM_TTL", parsers.positive_duration, base.credentials.claim_ttl),
            secret_is_random=read.value("SIDECAR_SECRET_IS_RANDOM", parsers.switch, base.credentials.secret_is_random),
            allow_empty_root=read.value("SIDECAR_ALLOW_EMPTY_ROOT", parsers.switch, base.credentials.allow_empty_root),
        ),
        log=LogSettings(
            json=read.value("SIDECAR_LOG_FORMAT", parsers.choice("text", "json"), "text") == "json",
            color=terminal.wants_color(environ),
            level=read.value("SIDECAR_LOG_LEVEL", parsers.level, base.log.level),
            access=read.value("SIDECAR_LOG_ACCESS", parsers.switch, base.log.access),
        ),
        ignored_service_links=tuple(read.service_links),
    )
    settings = replace(
        settings, known_variables=frozenset(read.names), unknown_variables=tuple(variables.ours(environ, read.names))
    )
    for name in ("DEVPISERVER_ROOT_PASSWD", "DEVPISERVER_ROOT_PASSWD_HASH"):
        if environ.get(name):
            read.problem(name, "would be visible in the environment of devpi's tools", "use DEVPI_PASSWORD_FILE")
    if read.problems:
        raise SettingsError(read.problems)
    return settings
