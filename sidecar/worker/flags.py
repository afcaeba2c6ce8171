"""Parse devpi-server's flags with devpi's own parser: abbreviations, DEVPISERVER_* and its configuration file work."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from devpi_server.config import get_parser, hookimpl, parseoptions
from devpi_server.main import Fatal

from sidecar.core.errors import OperatorError
from sidecar.worker.roles import role_of

if TYPE_CHECKING:
    from devpi_server.config import Config, MyArgumentParser
    from pluggy import PluginManager

    from sidecar.devpi.protocol import Configure
    from sidecar.worker.options import Options

_ARGON2 = ("argon2_memory_cost", "argon2_time_cost", "argon2_parallelism")

CHEAP_DERIVATION = ("--argon2-memory-cost", "8", "--argon2-time-cost", "1", "--argon2-parallelism", "1")
"""The minimum of argon2: enough for a login secret of 256 random bits, which can't be guessed anyway."""

KEYFS_CACHE_SIZE = 200
"""The default of --keyfs-cache-size instead of devpi's 10,000: a twentieth of it caches whole transactions,
and those with a mirror's projects are large (docs/operations.md, "Memory").
"""

_MOST_SOCKETS = 253
"""The most that the kernel passes with one packet."""


class FlagsRefused(OperatorError):
    """The flags contradict the settings or each other."""


class Listen(NamedTuple):
    """What the sidecar binds for devpi-server, as waitress interprets its arguments."""

    addresses: tuple[str, ...]
    """`http://host:port` or `unix:path`."""
    tcp: tuple[tuple[int, tuple[str | int, ...]], ...]
    """Family and socket address of each; empty if there is a Unix socket."""
    unix_socket: str | None
    """As the operator wrote it: an absolute path may be too long for the kernel."""
    unix_socket_mode: int
    backlog: int


@dataclass(frozen=True)
class ServerFlags:
    """What devpi-server will run with."""

    argv: tuple[str, ...]
    """`devpi-server`, the operator's flags unchanged, then our defaults for what nothing else sets."""
    serverdir: Path
    listen: Listen
    replica: bool
    primary_url: str | None
    storage: str
    secretfile: str | None
    no_root_pypi: bool
    own_derivation: bool
    """The operator has set --argon2-*."""
    version_asked: bool
    """--version is among them."""
    tool_flags: tuple[str, ...]
    """The flags that devpi-init and devpi-import share with devpi-server."""
    outside_url: str | None


class SilenceProbe:
    """A devpi plugin that adds --no-root-pypi to devpi-server, and for one parse shows which options are not set."""

    def __init__(self) -> None:
        self.probing = False

    @hookimpl
    def devpiserver_add_parser_options(self, parser: MyArgumentParser) -> None:
        """Extend each parser that devpi makes for its server (devpi's hook)."""
        parser.addoption(
            "--no-root-pypi", action="store_true", help="don't create root/pypi at initialisation (ignored by imports)"
        )
        if self.probing:
            for action in parser._actions:
                if action.dest in {"serverdir", "host", "port", "keyfs_cache_size", "no_root_pypi", *_ARGON2}:
                    action.default = None


def understand(request: Configure, plugins: PluginManager, probe: SilenceProbe) -> ServerFlags:
    """Parse the flags of `request` with devpi's parser, and compare them with the settings.

    Reads only devpi's configuration file and `.nodeinfo`. Raises FlagsRefused, devpi's Fatal, and SystemExit if devpi
    has printed an error (code not 0) or what the flags ask for (0).
    """
    try:
        return _understand(request, plugins, probe)
    except (FlagsRefused, Fatal):
        raise
    except Exception as error:  # YAML errors, wrong types in a configuration file, an unknown home directory
        what = " ".join(f"{type(error).__name__}: {_without_content(error)}".split())
        raise FlagsRefused(
            f"devpi-server can't use its flags or its configuration file: {what}", "see `devpi-server --help`"
        ) from error


def _without_content(error: Exception) -> str:
    """Return the error's text, of a YAML error only the line: its text quotes the file, which may hold a password."""
    mark = getattr(error, "problem_mark", None)
    return str(error) if mark is None else f"invalid YAML in line {mark.line + 1}"


def password_in(options: Options) -> str | None:
    """Return root's password from devpi's configuration file. Raises FlagsRefused, without the password, if invalid."""
    try:
        return options.root_password()
    except ValueError as error:
        reason, hint = error.args
        raise FlagsRefused(f"root-passwd in devpi-server's configuration file {reason}", hint) from None


def _understand(request: Configure, plugins: PluginManager, probe: SilenceProbe) -> ServerFlags:
    probe.probing = True
    explicit = _parse(["devpi-server", *request.flags], plugins).args
    probe.probing = False
    defaults: list[str] = []
    serverdir = _agree("the serverdir", explicit.serverdir, "DEVPI_SERVERDIR", request.serverdir)
    if explicit.serverdir is None:
        defaults += ["--serverdir", serverdir or request.default_serverdir]
    port = _agree("devpi-server's port", explicit.port, "DEVPI_PORT", request.port)
    if request.port is not None and (explicit.listen or (explicit.unix_socket and explicit.host is None)):
        raise FlagsRefused("DEVPI_PORT can't be combined with --listen or --unix-socket", "keep one of them")
    if explicit.port is None and port is not None:
        defaults += ["--port", str(port)]
    if explicit.host is None and not explicit.listen and (not explicit.unix_socket or explicit.port is not None):
        defaults += ["--host", "0.0.0.0"]  # noqa: S104 - the operator decides which ports of a container are published
    if explicit.keyfs_cache_size is None:
        defaults += ["--keyfs-cache-size", str(KEYFS_CACHE_SIZE)]
    if explicit.restrict_modify is None and request.restrict_modify:
        defaults += ["--restrict-modify", request.restrict_modify]
    argv = ("devpi-server", *request.flags, *defaults)
    config = _parse(list(argv), plugins)
    if config.args.primary_url and config.args.deprecated_master_url:
        raise FlagsRefused("--primary-url and --master-url are both set", "keep --primary-url")
    role = role_of(config.args, config.server_path.absolute())
    if (contradiction := role.contradiction()) is not None:
        raise FlagsRefused(*contradiction)
    return ServerFlags(
        argv=argv,
        serverdir=config.server_path.absolute(),
        listen=_listen(config, request),
        replica=role.replica,
        primary_url=role.url,
        storage=_storage_name(config),
        secretfile=config.args.secretfile,
        no_root_pypi=_no_root_pypi(explicit.no_root_pypi, request.root_pypi),
        own_derivation=any(getattr(explicit, dest) is not None for dest in _ARGON2),
        version_asked=config.args.version,
        tool_flags=_tool_flags(config),
        outside_url=config.args.outside_url or None,
    )


def _parse(argv: list[str], plugins: PluginManager) -> Config:
    parser = get_parser(plugins)
    parser.error = _refuse  # type: ignore[method-assign]
    return parseoptions(plugins, argv, parser=parser)


def _refuse(message: str) -> NoReturn:
    """Raise FlagsRefused, instead of argparse's usage on stderr and exit code 2."""
    if "--root-passwd" in message:  # the message contains the password
        reason = "--root-passwd and --root-passwd-hash would be visible in the process list"
        raise FlagsRefused(reason, "use DEVPI_PASSWORD_FILE")
    raise FlagsRefused(f"devpi-server rejected its flags: {message}", "see `devpi-server --help`")


def _agree(what: str, flag: object, variable: str, value: object) -> str | None:
    """Return the one that is set. Raises FlagsRefused if both are set and differ."""
    if flag is None or value is None:
        either = value if flag is None else flag
        return None if either is None else str(either)
    if str(flag).rstrip("/") != str(value).rstrip("/"):
        raise FlagsRefused(
            f"{what} is {str(flag)!r} in devpi-server's flags and {str(value)!r} in {variable}", "keep one of them"
        )
    return str(flag)


def _no_root_pypi(flag: bool | None, root_pypi: bool | None) -> bool:
    """Return whether a new state gets no root/pypi. Raises FlagsRefused if both are set and contradict each other."""
    if root_pypi is None:
        return bool(flag)
    if flag is not None and bool(flag) == root_pypi:
        raise FlagsRefused(
            f"--no-root-pypi is {_switch(flag)} in devpi-server's flags, and DEVPI_ROOT_PYPI is {_switch(root_pypi)}",
            "keep one of them",
        )
    return not root_pypi


def _switch(on: bool) -> str:
    return "true" if on else "false"


def _listen(config: Config, request: Configure) -> Listen:
    """Return where devpi-server will listen. Raises FlagsRefused if it can't, or if the sidecar listens there."""
    from waitress.adjustments import Adjustments

    if not 0 <= config.args.port <= 65535:  # the resolver takes it modulo 65536
        raise FlagsRefused(f"devpi-server can't listen on port {config.args.port}", "set a number from 1 to 65535")
    try:
        adjustments = Adjustments(**config.waitress_info["kwargs"])
    except ValueError as error:
        raise FlagsRefused(f"devpi-server can't listen: {error}", "fix --host, --port or --listen") from error
    except OSError as error:
        raise FlagsRefused(f"devpi-server's address can't be resolved: {error}", "fix --host or --listen") from error
    mode, backlog = adjustments.unix_socket_perms, adjustments.backlog
    if path := adjustments.unix_socket:
        return Listen((f"unix:{Path(path).absolute()}",), (), path, mode, backlog)
    if len(adjustments.listen) > _MOST_SOCKETS:
        many = f"devpi-server can't listen on {len(adjustments.listen)} addresses, only on {_MOST_SOCKETS}"
        raise FlagsRefused(many, "fix --listen")
    if not adjustments.listen:
        raise FlagsRefused("devpi-server has no address to listen on", "fix --listen")
    addresses = tuple(http_address(*sockaddr[:2]) for _, _, _, sockaddr in adjustments.listen)
    taken = _sockets_of_the_sidecar(request)
    for (family, _, _, (host, port, *_)), address in zip(adjustments.listen, addresses, strict=True):
        if any(_same_place((family, host, port), other) for other in taken):
            raise FlagsRefused(
                f"devpi-server and the sidecar can't both listen on port {port}: {address} from devpi-server's flags, "
                f"{http_address(request.sidecar_host, port)} from SIDECAR_HOST and SIDECAR_PORT",
                "set SIDECAR_PORT to another port",
            )
    tcp = tuple((int(family), sockaddr) for family, _, _, sockaddr in adjustments.listen)
    return Listen(addresses, tcp, None, mode, backlog)


def _sockets_of_the_sidecar(request: Configure) -> list[tuple[int, str, int]]:
    """Return family, host and port of each; none for port 0. The sidecar listens already, so its host resolves."""
    if request.sidecar_port == 0:
        return []
    try:
        found = socket.getaddrinfo(
            request.sidecar_host, request.sidecar_port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError:
        return []
    return [(family, str(address[0]), int(address[1])) for family, _, _, _, address in found]


def _same_place(devpi: tuple[int, str, int], sidecar: tuple[int, str, int]) -> bool:
    """Whether two listening sockets conflict. The sidecar's `::` accepts IPv4, too."""
    (family, host, port), (other_family, other_host, other_port) = devpi, sidecar
    if port != other_port or port == 0:
        return False
    if family != other_family:
        return other_host == "::"
    return host == other_host or not {host, other_host}.isdisjoint({"0.0.0.0", "::"})  # noqa: S104 - not bound here


def http_address(host: str, port: int) -> str:
    """Return the URL of a listener on `host`, which may be an IPv6 address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _storage_name(config: Config) -> str:
    if isinstance(config.args.storage, dict):
        raise Fatal("a storage as a mapping is not supported; write it as NAME:KEY=VALUE,…")
    config._determine_storage()  # raises Fatal for a storage that no plugin provides
    return str(config.storage_info["name"])


def _tool_flags(config: Config) -> tuple[str, ...]:
    """Return the flags with which devpi-init and devpi-import behave as this server."""
    flags = ["--storage", config.args.storage, "--keyfs-cache-size", str(config.args.keyfs_cache_size)]
    if config.args.configfile:
        flags += ["--configfile", config.args.configfile]
    return tuple(flags)
