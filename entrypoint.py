"""The container's command: `python entrypoint.py [devpi-server flags]`, or a devpi tool with its arguments.

Prepares a devpi-server state directory, runs devpi-server on it, and next to it the sidecar, which reports its status.
"""

import os
import sys

from sidecar.container import stops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sidecar.core.settings import Settings


def main(arguments: list[str]) -> int:
    """Run, and return the exit code (`sidecar.core.errors`)."""
    tool = None
    if arguments and not arguments[0].startswith("-"):
        tool, *rest = arguments
        if os.path.basename(tool) == "devpi-server":  # noqa: PTH119 - pathlib is not imported yet
            tool, arguments = None, rest
    # a tool keeps the default signal handlers: interrupted work must not exit with 0
    stopping = stops.Stops() if tool is None else None
    stops.hear()

    from sidecar.core import settings
    from sidecar.core.errors import ExitCode

    try:
        given = settings.from_environ(os.environ)
    except settings.SettingsError as error:
        for problem in error.problems:
            sys.stderr.write(f"error: {problem}\n")
        return ExitCode.SETTINGS
    environ = settings.child_environment(os.environ)
    if stopping is not None and any(map(_asks_for_text, arguments)):
        from sidecar.worker import tools

        if (code := tools.print_text(arguments, environ)) is not None:
            return code
    if stopping is not None:
        return serve(given, arguments, environ, stopping)
    from sidecar.worker import tools

    if tools.name_of(arguments[0]) == "sidecar":  # our own command, even if it is not on the PATH
        from sidecar.cli import __main__ as cli

        return cli.main(arguments[1:])
    return tools.run(arguments, given, environ)


def serve(given: "Settings", flags: list[str], environ: dict[str, str], stopping: stops.Stops) -> int:
    """Run the container. Returns only if the child can't be started."""
    from sidecar.core.errors import Exit
    from sidecar.devpi.spawn import spawn

    stopping.hold()  # the child's id is known when `spawn` returns
    try:
        spawned = spawn(environ, given.log)  # before all other imports, which take as long as the child's own
    except Exit as error:
        sys.stderr.write(f"error: {error.reason}; {error.hint}\n")
        return error.code
    stopping.end_with(spawned.process)
    from sidecar.container import main as container

    code = container.run(given, flags, spawned, stopping, lambda: spawn(environ, given.log, spawned.phase))
    sys.stderr.flush()
    os._exit(code)  # nothing is left to do: finalising the interpreter would only delay the exit


def _asks_for_text(flag: str) -> bool:
    """Whether the flag is --help or --version, or an abbreviation, which devpi's parser accepts."""
    return flag == "-h" or (len(flag) > len("--") and any(name.startswith(flag) for name in ("--help", "--version")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
