"""`entrypoint.py TOOL …`: devpi's own tools, and anything else, run in the sidecar's place; never past the lock."""

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
"""Tools that must have the serverdir to themselves."""
BESIDE = {"devpi-export": "devpi_server.importexport:export"}
"""Tools that may run beside a server, as its own user: they rewrite `.nodeinfo`."""
_MAKES_STATE = ("devpi-init", "devpi-import")


def run(arguments: list[str], settings: Settings, environ: Mapping[str, str]) -> int:
    """Become the command, or run devpi's tool in this process. Returns the exit code, if it returns."""
    name = name_of(arguments[0])
    env = dict(environ)
    if not env.get("DEVPISERVER_SERVERDIR"):
        env["DEVPISERVER_SERVERDIR"] = str(settings.serverdir or DEFAULT_SERVERDIR)
    if name in LOCKED or name in BESIDE:
        return _devpi_tool(arguments, env)
    try:
        os.execvpe(arguments[0], arguments, env)  # noqa: S606 - what the operator asked for
    except OSError as error:
        sys.stderr.write(f"error: can't run {arguments[0]!r}: {error.strerror}\n")
        return 127 if isinstance(error, FileNotFoundError) else 126


def print_text(flags: list[str], environ: Mapping[str, str]) -> int | None:
    """Print what `--help` or `--version` ask devpi-server for, and nothing else; no port or folder is needed for that.

    Returns the exit code; None: devpi's parser finds neither among the flags.
    """
    os.environ.clear()
    os.environ.update(environ)
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # pyramid's
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

    sys.argv[:] = ["devpi-server"]  # its name in the help
    plugins, probe = get_pluginmanager(), SilenceProbe()
    plugins.register(probe, "sidecar-flags")
    Options(plugins).take_over(quiet=True)  # a start reports what has no effect
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
    """What a command is, wherever it lies: `/usr/bin/devpi-init` must not pass by the lock."""
    return os.path.basename(command)  # noqa: PTH119 - "" for a folder, which is no command


def _devpi_tool(arguments: list[str], env: Mapping[str, str]) -> int:
    """Run one of devpi's tools; first the serverdir that its own parser finds has its owner checked, and is locked."""
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
            set_state_version(config)  # devpi leaves it out where lost+found and our .sidecar are two entries
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
    if name == "devpi-clear-search-index":  # it parses its options without a CommandRunner
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
            f"error: what {name} wrote is not on the disk: {error.strerror}; {hint_to_write(error)}, and try again\n"
        )
        return ExitCode.NOT_WRITABLE
    return int(code or 0)


def _refused(error: Exit) -> int:
    sys.stderr.write(f"error: {error.reason}; {error.hint}\n")
    return error.code


def _lock(serverdir: Path) -> Serverdir:
    """Hold the serverdir's lock until this process ends, and finish what was being installed. Raises Exit."""
    from sidecar.storage.inspection import Storage
    from sidecar.storage.serverdir import Serverdir

    locked = Serverdir(serverdir, Storage("sqlite"))
    locked.open()
    if done := locked.recover():
        sys.stderr.write(f"{done}\n")
    return locked


def _check_owner(tool: str, nodeinfo: Path) -> None:
    """Raise Exit where another user's server would be locked out: every tool of devpi's makes `.nodeinfo` its own.

    The folder's owner says nothing: Kubernetes' fsGroup leaves it to root.
    """
    try:
        owner = nodeinfo.stat()
    except OSError:
        return  # there is none yet, or devpi says what is wrong with it
    if owner.st_uid != os.geteuid():
        raise Exit(
            ExitCode.NOT_WRITABLE,
            f"the serverdir's .nodeinfo belongs to uid {owner.st_uid}, and this runs as uid {os.geteuid()}: {tool} "
            "would rewrite it so that the server can't read it any more",
            f"run it as that user (docker exec --user {owner.st_uid} …)",
        )


class _Unfinished:
    """Marks a serverdir while a tool makes a state in it: devpi would serve what a killed one leaves behind."""

    def __init__(self, tool: str) -> None:
        self._tool = tool
        self._serverdir: Serverdir | None = None
        self._mark: Path | None = None

    def is_of(self, locked: Serverdir) -> None:
        """Where the tool works."""
        self._serverdir = locked

    def begin(self, serverdir: Path) -> None:
        """A state is in the making."""
        from sidecar.core import files
        from sidecar.storage.layout import Layout

        self._mark = Layout(serverdir.absolute()).tool
        files.write_file(self._mark, json.dumps({"tool": self._tool}).encode())

    def end(self) -> None:
        """Bring to disk what the tool has written: devpi's don't, and a power cut may not take back what is done."""
        from sidecar.core import files

        if self._serverdir is not None:
            self._serverdir.sync()
        if self._mark is not None:
            files.remove(self._mark)
