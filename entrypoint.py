"""The container's command: `python entrypoint.py [devpi-server flags]`, or a tool of devpi's in their place.

Prepares a devpi-server state directory, runs devpi-server on it, and beside it the sidecar that tells how it is.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from sidecar import settings
from sidecar.exits import ExitCode


def main(arguments: list[str]) -> int:
    """Run. Returns the exit code, see `sidecar.exits`."""
    try:
        given = settings.from_environ(os.environ)
    except settings.SettingsError as error:
        for problem in error.problems:
            sys.stderr.write(f"error: {problem}\n")
        return ExitCode.SETTINGS
    environ = settings.child_environment(os.environ)
    if arguments and not arguments[0].startswith("-"):
        if os.path.basename(arguments[0]) != "devpi-server":  # noqa: PTH119 - pathlib is not imported yet
            from sidecar import tools

            return tools.run(arguments, given, environ)
        arguments = arguments[1:]
    if any(map(_asks_for_text, arguments)):
        from sidecar import tools

        if (code := tools.print_text(arguments, environ)) is not None:
            return code

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop_early)  # until the event loop takes them; as PID 1 they would be lost

    from sidecar.devpi.spawn import spawn

    spawned = spawn(environ, given.log)  # before all other imports, which take as long as the child's own
    from sidecar import container

    code = container.run(given, arguments, spawned)
    sys.stderr.flush()
    os._exit(code)  # nothing is left to do: taking the interpreter apart would only make the stop longer


def _asks_for_text(flag: str) -> bool:
    """Whether it is --help or --version, or an abbreviation, as devpi's parser takes them."""
    return flag == "-h" or (len(flag) > len("--") and any(name.startswith(flag) for name in ("--help", "--version")))


def _stop_early(_number: int, _frame: FrameType | None) -> NoReturn:
    """Nothing has been touched yet; the child dies with this process."""
    sys.exit(ExitCode.STOPPED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
