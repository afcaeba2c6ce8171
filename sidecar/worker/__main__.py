"""The worker: one interpreter that imports devpi once, parses its flags, forks the preparation, and serves.

Run as `python -m sidecar.worker FD CRASH PHASE STYLE LEVEL`: this side of the socket pair to the sidecar, the file for
a crash report, the file in which the sidecar writes the phase, and the style and level of log lines. The steps are in
`_run` and `_obey`; the sidecar decides when each of them happens.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import warnings
from contextlib import suppress
from logging import getLogger
from typing import TYPE_CHECKING, cast

from sidecar.core import logging, privacy
from sidecar.core.errors import Exit, ExitCode
from sidecar.core.journal import phase_of
from sidecar.devpi import crash
from sidecar.devpi.protocol import (
    Configure,
    Configured,
    Done,
    HoldLock,
    Import,
    Initialise,
    Noticed,
    PrepareFailed,
    Refused,
    Serve,
    decode,
    encode,
)
from sidecar.worker.channel import Channel, SidecarGone
from sidecar.worker.patches import table

if TYPE_CHECKING:
    from pluggy import PluginManager

    from sidecar.worker.flags import ServerFlags
    from sidecar.worker.options import Options

log = getLogger("sidecar")

_PR_SET_PDEATHSIG = 1

SUPPORTED = ((6, 20), (7,))
"""The supported versions of devpi-server: the lowest, and the first that is too new."""


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies: devpi-server must not outlive its sidecar."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call
        os._exit(ExitCode.INTERNAL)


def main(fd: int, crash_fd: int, phase_fd: int, style: str, level: str) -> int:
    """Obey the sidecar until devpi-server exits. Returns the exit code."""
    die_with_parent(os.getppid())  # if that isn't the sidecar any more, the socket pair is closed already
    privacy.undumpable()
    logging.configure(style, level, "devpi-server").phase = lambda: phase_of(phase_fd)
    crash.report_to(crash_fd)
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # may be ignored, as in a shell's background job
    channel = Channel(fd)
    try:
        channel.hand_over_open_files()
        return _run(channel, crash_fd)
    except SidecarGone:
        return ExitCode.INTERNAL
    except Exit as error:  # foreign code that `table` does not know, or no descriptor is left for a socket
        log.critical("%s", error)
        return error.code


def _run(channel: Channel, crash_fd: int) -> int:
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # from pyramid, at each start
    import devpi_server  # and all below, before the first message: the sidecar imports its own modules meanwhile

    if refusal := unsupported(devpi_server.__version__):
        channel.send(refusal)
        return ExitCode.SETTINGS
    table.require("start")
    from devpi_server.config import InvalidConfigError, get_pluginmanager
    from devpi_server.main import Fatal

    from sidecar.worker import flags
    from sidecar.worker.options import Options
    from sidecar.worker.patches import hashing, output

    output.take_over()
    hashing.one_at_a_time()
    sys.argv[:] = ["devpi-server"]  # the program's name in the help
    plugins = get_pluginmanager()
    probe = flags.SilenceProbe()
    plugins.register(probe, "sidecar-flags")
    configure = cast(Configure, channel.receive())
    options = Options(plugins)
    options.take_over(quiet=True)
    try:
        understood = flags.understand(configure, plugins, probe)
        root_password = flags.password_in(options)
    except flags.FlagsRefused as error:
        _send_notices(channel, options, configure)  # a misspelt name may be the cause
        channel.send(Refused(error.reason, error.hint))
        return ExitCode.SETTINGS
    except (Fatal, InvalidConfigError, OSError, ValueError) as error:
        channel.send(Refused(f"devpi-server rejected its flags: {error}", "see `devpi-server --help`"))
        return ExitCode.SETTINGS
    except SystemExit as error:  # devpi has printed the reason
        if error.code in (0, None):
            channel.send(Done())
            return ExitCode.STOPPED
        channel.send(Refused("devpi-server rejected its flags; its error is above", "see `devpi-server --help`"))
        return ExitCode.SETTINGS
    if understood.version_asked:
        print(devpi_server.__version__)  # noqa: T201 - as devpi-server --version does
        channel.send(Done())
        return ExitCode.STOPPED
    output.take_stdout()
    _send_notices(channel, options, configure)
    channel.send(
        Configured(
            version=devpi_server.__version__,
            serverdir=str(understood.serverdir),
            addresses=list(understood.listen.addresses),
            listen=[[family, *address] for family, address in understood.listen.tcp],
            unix_socket=understood.listen.unix_socket,
            unix_socket_mode=understood.listen.unix_socket_mode,
            backlog=understood.listen.backlog,
            replica=understood.replica,
            storage=understood.storage,
            secretfile=understood.secretfile,
            plugins=[list(plugin) for plugin in plugin_versions(plugins)],
            outside_url=understood.outside_url,
            root_password=root_password,
        )
    )
    return _obey(channel, crash_fd, understood, plugins)


def _obey(channel: Channel, crash_fd: int, understood: ServerFlags, plugins: PluginManager) -> int:
    """Prepare a state on request, then become devpi-server. Returns its exit code."""
    while True:
        message = channel.receive()
        match message:
            case HoldLock():
                pass
            case Initialise() | Import():
                from sidecar.worker import prepare

                answer = _in_a_fork(prepare.prepare, message, understood, plugins, channel)
                crash.log_report(crash_fd, "the preparing process")
                if answer is None:
                    return ExitCode.INTERNAL
                channel.send(answer)
            case Serve():
                table.require("serve")
                from sidecar.worker import serve

                return serve.serve(message, understood, plugins, channel)
            case _:
                raise AssertionError(f"unexpected {type(message).__name__}")


def _send_notices(channel: Channel, options: Options, configure: Configure) -> None:
    for notice in options.notices(configure.known_variables, configure.unknown_variables):
        channel.send(Noticed(notice.about, notice.reason, notice.hint))


def unsupported(version: str) -> Refused | None:
    """Return why devpi-server `version` can't be launched; None if it can."""
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if SUPPORTED[0] <= numbers < SUPPORTED[1]:
        return None
    low, high = (".".join(map(str, bound)) for bound in SUPPORTED)
    return Refused(
        f"devpi-server {version} is installed, but this devpi-sidecar supports >={low},<{high}",
        "install a devpi-server in that range, or a devpi-sidecar that supports this one",
    )


def plugin_versions(plugins: object) -> list[tuple[str, str]]:
    """Return name and version of the installed distributions that extend devpi-server."""
    found = {(dist.project_name, dist.version) for _, dist in plugins.list_plugin_distinfo()}  # type: ignore[attr-defined]
    return sorted(pair for pair in found if pair[0] != "devpi-server")


def import_what_serving_needs() -> None:
    """Import now, while the fork works on another core, what devpi-server would import afterwards."""
    with suppress(ImportError):  # reported when devpi-server is to serve
        from devpi_server import middleware, view_auth, views  # noqa: F401
        from waitress import server  # noqa: F401

        from sidecar.worker import serve  # noqa: F401


def _in_a_fork(prepare, *arguments):  # type: ignore[no-untyped-def]
    """Run `prepare` in a fork, so that its memory is freed, and return the answer for the sidecar.

    None: `table` does not know the installed foreign code; the fork has logged that.

    Forking is safe, because no other thread exists yet. The fork returns its `Prepared` or `PrepareFailed` through a
    pipe; if it dies instead, the answer names the signal.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()  # the fork would write what is still buffered, too
    sys.stderr.flush()
    parent = os.getpid()  # in the fork, getppid may already return the process that adopts orphans
    try:
        pid = os.fork()
    except OSError as error:
        os.close(reader)
        os.close(writer)
        return PrepareFailed(
            f"the preparing process can't be started: {error.strerror}",
            "raise the limits of processes and memory (--pids-limit, podPidsLimit, --memory), and start again",
            retryable=True,
            exhausted=True,
        )
    if pid == 0:
        code = 1
        try:
            die_with_parent(parent)
            os.close(reader)
            answer = prepare(*arguments)
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(encode(answer))
            code = 0
        except table.Unknown as error:
            log.critical("%s", error)
            code = ExitCode.INTERNAL
        finally:
            os._exit(code)
    os.close(writer)
    import_what_serving_needs()
    with os.fdopen(reader, "rb") as pipe:
        packet = pipe.read()
    _, status = os.waitpid(pid, 0)
    if packet:
        return decode(packet)
    if os.waitstatus_to_exitcode(status) == ExitCode.INTERNAL:
        return None
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name
        if number == signal.SIGKILL:
            return PrepareFailed(
                f"the preparing process was killed ({name}), most likely for lack of memory",
                "raise the memory limit, and start again",
                retryable=True,
                exhausted=True,
            )
        return PrepareFailed(
            f"the preparing process was terminated by {name}", "start again; report a bug if it happens again"
        )
    return PrepareFailed("the preparing process exited without a result", "see the log above, and report a bug")


if __name__ == "__main__":
    exit_code = main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # everything is committed, and finalising the interpreter takes half a second
