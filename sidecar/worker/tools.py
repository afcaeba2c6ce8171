"""`entrypoint.py TOOL …`: run devpi's tools, always with the serverdir's lock, or any other command."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.core.disk_hints import hint_to_write
from sidecar.core.errors import Exit, ExitCode
from sidecar.core.settings import DEFAULT_SERVERDIR, Settings

if TYPE_CHECKING:
    from devpi_server.config import Config, MyArgumentParser
    from pluggy import PluginManager

    from sidecar.storage.serverdir import Serverdir

LOCKED = {
    "devpi-init": "devpi_server.init:init",
    "devpi-import": "devpi_server.importexport:import_",
    "devpi-passwd": "devpi_server.passwd:passwd",
    "devpi-fsck": "devpi_server.fsck:fsck",
    "devpi-clear-search-index": "devpi_web.clear_index:clear_index",
}
"""Tools that need exclusive use of the serverdir."""
BESIDE = {"devpi-export": "devpi_server.importexport:export"}
"""Tools that may run beside a server, but only as its user, because they rewrite `.nodeinfo`."""
_MAKES_STATE = ("devpi-init", "devpi-import")


def run(arguments: list[str], settings: Settings, environ: Mapping[str, str]) -> int:
    """Run devpi's tool in this process and return its exit code, or replace this process by another command."""
    name = name_of(arguments[0])
    env = dict(environ)
    if not env.get("DEVPISERVER_SERVERDIR"):
        env["DEVPISERVER_SERVERDIR"] = str(settings.serverdir or DEFAULT_SERVERDIR)
    if name in LOCKED or name in BESIDE:
        return _devpi_tool(arguments, env)
    try:
        os.execvpe(arguments[0], arguments, env)  # noqa: S606 - the operator's command
    except OSError as error:
        sys.stderr.write(f"error: can't run {arguments[0]!r}: {error.strerror}\n")
        return 127 if isinstance(error, FileNotFoundError) else 126


def print_text(flags: list[str], environ: Mapping[str, str]) -> int | None:
    """Print devpi-server's `--help` or `--version`, without a port or a serverdir.

    Returns the exit code; None if devpi's parser finds neither of them in the flags.
    """
    os.environ.clear()
    os.environ.update(environ)
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # from pyramid
    import devpi_server

    from sidecar.worker.patches import table

    try:
        table.require("help")
    except table.Unknown as error:
        return _refused(error)
    from devpi_server.config import InvalidConfigError, get_pluginmanager
    from devpi_server.main import Fatal

    from sidecar.devpi.protocol import Configure
    from sidecar.worker.flags import FlagsRefused, SilenceProbe, understand
    from sidecar.worker.options import Options

    sys.argv[:] = ["devpi-server"]  # the program's name in the help
    plugins, probe = get_pluginmanager(), SilenceProbe()
    plugins.register(probe, "sidecar-flags")
    Options(plugins).take_over(quiet=True)  # a start reports options without effect
    request = Configure(flags, None, default_serverdir=str(DEFAULT_SERVERDIR), port=None, restrict_modify="")
    try:
        asked = understand(request, plugins, probe).version_asked
    except (FlagsRefused, Fatal, InvalidConfigError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return ExitCode.SETTINGS
    except SystemExit as error:  # devpi has printed the help
        return ExitCode.SETTINGS if error.code else ExitCode.STOPPED
    if not asked:
        return None
    sys.stdout.write(f"{devpi_server.__version__}\n")
    return ExitCode.STOPPED


def name_of(command: str) -> str:
    """Return a command's name without its folder: `/usr/bin/devpi-init` needs the lock, too."""
    return os.path.basename(command)  # noqa: PTH119 - "" for a folder, which is not a command


def _devpi_tool(arguments: list[str], env: Mapping[str, str]) -> int:
    """Run one of devpi's tools, after its own parser has found the serverdir, and that is checked and locked."""
    os.environ.clear()
    os.environ.update(env)
    os.umask(0o077)
    from importlib import import_module

    from sidecar.worker.patches import table

    try:
        table.require("tools")
    except table.Unknown as error:
        return _refused(error)
    from devpi_server.main import CommandRunner, set_state_version

    from sidecar.worker.options import Options
    from sidecar.worker.patches import recovery

    recovery.keep_nodeinfo_whole()
    name = name_of(arguments[0])
    state = _Unfinished(name)
    parse: Any = CommandRunner.get_config

    def guarded(config: Config) -> Config:
        _check_owner(name, config.nodeinfo_path)
        if name in LOCKED:
            state.is_of(_lock(config.server_path))
        if name in _MAKES_STATE and not config.nodeinfo_path.exists():
            state.begin(config.server_path)
            set_state_version(config)  # devpi skips it in a folder of two entries, such as lost+found and .sidecar
        return config

    def get_config(runner: CommandRunner, argv: list[str], parser: MyArgumentParser) -> Config:
        Options(runner.pluginmanager).take_over()
        return guarded(parse(runner, argv, parser))

    CommandRunner.get_config = get_config  # type: ignore[method-assign]
    path, function = (LOCKED | BESIDE)[name].split(":")
    try:
        module: Any = import_module(path)
    except ModuleNotFoundError as error:
        sys.stderr.write(f"error: can't run {arguments[0]!r}: {error.name} is not installed\n")
        return 127
    if name == "devpi-clear-search-index":  # parses its options without a CommandRunner
        parse_options = module.parseoptions

        def parseoptions(plugins: PluginManager, argv: list[str], parser: MyArgumentParser) -> Config:
            Options(plugins).take_over()
            return guarded(parse_options(plugins, argv, parser=parser))

        module.parseoptions = parseoptions
    sys.argv = arguments
    try:
        code = getattr(module, function)()
    except Exit as error:
        return _refused(error)
    try:
        if not code:
            state.end()
    except OSError as error:
        sys.stderr.write(
            f"error: {name}'s output can't be synced to disk: {error.strerror}; {hint_to_write(error)}, and try again\n"
        )
        return ExitCode.NOT_WRITABLE
    return int(code or 0)


def _refused(error: Exit) -> int:
    sys.stderr.write(f"error: {error.reason}; {error.hint}\n")
    return error.code


def _lock(serverdir: Path) -> Serverdir:
    """Hold the serverdir's lock until this process exits, and finish an interrupted installation. Raises Exit."""
    from sidecar.storage.inspection import Storage
    from sidecar.storage.serverdir import Serverdir

    locked = Serverdir(serverdir, Storage("sqlite"))
    locked.open()
    if done := locked.recover():
        sys.stderr.write(f"{done}\n")
    return locked


def _check_owner(tool: str, nodeinfo: Path) -> None:
    """Raise Exit if the tool would lock out another user's server: every devpi tool takes over `.nodeinfo`.

    The folder's owner is no indication: with Kubernetes' fsGroup it is root.
    """
    try:
        owner = nodeinfo.stat()
    except OSError:
        return  # there is none yet, or devpi reports the error
    if owner.st_uid != os.geteuid():
        raise Exit(
            ExitCode.NOT_WRITABLE,
            f"the serverdir's .nodeinfo belongs to uid {owner.st_uid}, but this runs as uid {os.geteuid()}: {tool} "
            "would rewrite it, and the server could not read it any more",
            f"run it as that user (docker exec --user {owner.st_uid} …)",
        )


class _Unfinished:
    """Marks a serverdir while a tool creates a state in it: devpi would serve the partial state of a killed tool."""

    def __init__(self, tool: str) -> None:
        self._tool = tool
        self._serverdir: Serverdir | None = None
        self._mark: Path | None = None

    def is_of(self, locked: Serverdir) -> None:
        """Set the serverdir that the tool works on."""
        self._serverdir = locked

    def begin(self, serverdir: Path) -> None:
        """Mark the state as unfinished."""
        from sidecar.core import files
        from sidecar.storage.layout import Layout

        self._mark = Layout(serverdir.absolute()).tool
        files.write_file(self._mark, json.dumps({"tool": self._tool}).encode())

    def end(self) -> None:
        """Sync what the tool has written, because devpi's tools don't, and remove the mark."""
        from sidecar.core import files

        if self._serverdir is not None:
            self._serverdir.sync()
        if self._mark is not None:
            files.remove(self._mark)
