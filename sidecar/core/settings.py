"""The environment → one frozen `Settings`; every mistake is reported, all of them together.

Nothing else of the sidecar itself reads the environment; the `sidecar` commands look there for the runtime directory,
and for what the terminal can show. devpi-server's own flags are not looked at here: devpi's parser
knows them, and runs in the child (see `sidecar.worker.__main__`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sidecar.core import discovery, parsers, terminal, variables
from sidecar.core.environment import SERVICE_LINKED, Problem, Reader

SECRET_VARIABLES = frozenset(
    {
        "DEVPI_PASSWORD",
        "DEVPI_PASSWORD_FILE",
        "SIDECAR_ADMIN_TOKEN",
        "SIDECAR_ADMIN_TOKEN_FILE",
        "DEVPISERVER_ROOT_PASSWD",
        "DEVPISERVER_ROOT_PASSWD_HASH",
    }
)
"""Variables that never reach a child process."""


class SettingsError(Exception):
    """Some settings are wrong. `problems` has all of them."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the sidecar listens."""

    host: str = "0.0.0.0"  # noqa: S104 - a container's port is published by choice of its operator
    """Address (SIDECAR_HOST)."""
    port: int = 3142
    """TCP port (SIDECAR_PORT); 0 takes a free one."""


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """TLS on the sidecar's port, where a certificate is given."""

    cert: Path | None = None
    """A PEM file: the certificate, then its intermediates (SIDECAR_TLS_CERT)."""
    key: Path | None = None
    """Its private key, as PEM without a passphrase (SIDECAR_TLS_KEY); None: in the certificate's file."""
    client_ca: Path | None = None
    """CAs as PEM; who uses the admin routes over the port needs a certificate of theirs (SIDECAR_TLS_CLIENT_CA)."""


@dataclass(frozen=True, slots=True)
class ImportSettings:
    """The import of `DEVPI_INIT_DIR` into an empty serverdir, and what its archives may not exceed."""

    init_dir: Path = Path("/devpi-init.d")
    """Where the exports are (DEVPI_INIT_DIR)."""
    exit_on_failure: bool = False
    """A failed import ends the container with code 3 instead of leaving it alive, not ready
    (SIDECAR_ON_IMPORT_FAILURE=exit)."""
    max_members: int = 1_000_000
    """Members of one archive (SIDECAR_IMPORT_MAX_MEMBERS)."""
    max_member_bytes: int = 8 * 2**30
    """Unpacked bytes of one member (SIDECAR_IMPORT_MAX_MEMBER_SIZE)."""
    max_total_bytes: int | None = None
    """Unpacked bytes of all archives together; None: free space less 10 % (SIDECAR_IMPORT_MAX_TOTAL_SIZE)."""
    max_ratio: int = 200
    """Unpacked bytes per compressed byte, looked at above 32 MiB (SIDECAR_IMPORT_MAX_RATIO)."""
    max_index_bytes: int = 256 * 2**20
    """Bytes of a dataindex.json, which is read into memory (SIDECAR_IMPORT_MAX_INDEX_SIZE)."""
    allow_unverified: bool = False
    """Take release files of which the export has no digest (SIDECAR_IMPORT_ALLOW_UNVERIFIED)."""
    ignore_init_files: bool = False
    """Start although `init_dir` holds archives that can't be imported, or are not, and don't warn of them
    (SIDECAR_IGNORE_INIT_FILES)."""
    strict: bool = False
    """Refuse an import of which something would be left out because it is not safe (SIDECAR_IMPORT_STRICT)."""


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """How readiness is found out."""

    interval: float = 2.0
    """Seconds between two looks at devpi-server (SIDECAR_MONITOR_INTERVAL)."""
    request_timeout: float = 5.0
    """Seconds after which an unanswered look counts as slow (SIDECAR_MONITOR_TIMEOUT)."""
    dead_after: float = 30.0
    """Seconds without any answer after which slow has become dead (SIDECAR_MONITOR_DEAD_AFTER)."""
    disk_warn_bytes: int = 1 * 2**30
    """Free bytes on the serverdir's volume below which the `disk` check warns (SIDECAR_DISK_WARN)."""


@dataclass(frozen=True, slots=True)
class StopSettings:
    """The way down."""

    delay: float = 0.0
    """Seconds to stay up, not ready, before the listener closes: load balancers lag (SIDECAR_STOP_DELAY)."""
    grace: float = 25.0
    """Seconds that running transfers have to finish and to be delivered (SIDECAR_STOP_GRACE)."""


@dataclass(frozen=True, slots=True)
class CredentialSettings:
    """Secrets that the operator gave, and how long an unclaimed one lasts."""

    root_password: str | None = field(default=None, repr=False)
    """root's password at initialisation (DEVPI_PASSWORD, DEVPI_PASSWORD_FILE)."""
    admin_token: str | None = field(default=None, repr=False)
    """The bearer token of the admin routes (SIDECAR_ADMIN_TOKEN, SIDECAR_ADMIN_TOKEN_FILE)."""
    claim_ttl: float | None = None
    """Seconds after which an unclaimed root password is thrown away; None: never (SIDECAR_CLAIM_TTL)."""
    secret_is_random: bool = False
    """The login secret that you bring (--secretfile, or the serverdir's .secret) has 256 random bits, as
    devpi-gen-secret makes them: devpi need not stretch it for 10 CPU-seconds and 512 MiB. The same on a primary and
    its replicas (SIDECAR_SECRET_IS_RANDOM)."""
    allow_empty_root: bool = False
    """Let an empty root password found in existing data pass (SIDECAR_ALLOW_EMPTY_ROOT)."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The log on stdout, the sidecar's and devpi-server's."""

    json: bool = False
    """One JSON object a line instead of text (SIDECAR_LOG_FORMAT=json)."""
    color: bool = True
    """Levels have colours on a terminal (NO_COLOR=1 and TERM=dumb take them away)."""
    level: str = "INFO"
    """The least level that is shown (SIDECAR_LOG_LEVEL)."""
    access: bool = False
    """A line for each request that the sidecar answers (SIDECAR_LOG_ACCESS)."""

    @property
    def style(self) -> str:
        """In one word, as `logging.configure` takes it."""
        return "json" if self.json else "color" if self.color else "text"


@dataclass(frozen=True, slots=True)
class Settings:
    """All that the environment says, checked."""

    runtime_dir: Path
    """A folder of this user's own, 0700, for what must not outlive the container (SIDECAR_RUNTIME_DIR)."""
    name: str | None = None
    """What people call this instance (SIDECAR_NAME); None: its host name."""
    in_kubernetes: bool = False
    """Whether Kubernetes runs this, by the variable that it gives to every container."""
    serverdir: Path | None = None
    """DEVPI_SERVERDIR; None: devpi's flags, its DEVPISERVER_SERVERDIR or its configuration decide,
    at last `DEFAULT_SERVERDIR`."""
    devpi_port: int | None = None
    """DEVPI_PORT, as the older image had it; None: devpi's flags decide."""
    restrict_modify: str = "root"
    """devpi-server's --restrict-modify where its own flags are silent; empty lifts it (DEVPI_RESTRICT_MODIFY)."""
    root_pypi_list: bool = False
    """A new root/pypi fetches the list of all projects of its upstream (DEVPI_ROOT_PYPI_LIST)."""
    listen: Listen = field(default_factory=Listen)
    tls: TlsSettings = field(default_factory=TlsSettings)
    imports: ImportSettings = field(default_factory=ImportSettings)
    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    stop: StopSettings = field(default_factory=StopSettings)
    credentials: CredentialSettings = field(default_factory=CredentialSettings)
    log: LogSettings = field(default_factory=LogSettings)
    ignored_service_links: tuple[str, ...] = ()
    """Variables of Kubernetes' service links (`tcp://…`) that were passed over."""
    known_variables: frozenset[str] = field(default=frozenset(), repr=False, compare=False)
    """The names of all variables that are read here."""
    unknown_variables: tuple[str, ...] = ()
    """Names of the environment that begin as these, and are not read by anybody; their values may be secrets."""


DEFAULT_SERVERDIR = Path("/var/lib/devpi")
"""The serverdir where settings, flags, environment and configuration file are all silent."""


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for devpi-server and other tools: `environ` without secrets and service links."""
    return {
        name: value
        for name, value in environ.items()
        if name not in SECRET_VARIABLES
        and not (name in SERVICE_LINKED and variables.is_service_address(value))
        and name not in {"DEVPI_SERVERDIR", "DEVPI_PORT"}  # the worker gets their values, checked, by another way
    }


def from_environ(environ: Mapping[str, str]) -> Settings:
    """Read and check all settings.

    Raises `SettingsError` with every mistake. Touches no file but those that `…_FILE` variables name.
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
        root_pypi_list=read.value("DEVPI_ROOT_PYPI_LIST", parsers.switch, base.root_pypi_list),
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
        settings,
        known_variables=frozenset(read.names),
        unknown_variables=tuple(variables.ours(environ, read.names)),
    )
    for name in ("DEVPISERVER_ROOT_PASSWD", "DEVPISERVER_ROOT_PASSWD_HASH"):
        if environ.get(name):
            read.problem(name, "would be handed to devpi's tools in a readable environment", "use DEVPI_PASSWORD_FILE")
    if read.problems:
        raise SettingsError(read.problems)
    return settings
