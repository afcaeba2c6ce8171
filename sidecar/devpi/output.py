"""What devpi-server says, in the shape of all lines: its log, and what it or a plugin prints.

An operator's own --logger-cfg wins: devpi-server then logs as that says, and what it prints is left alone.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
from typing import TYPE_CHECKING

from devpi_server import log as devpi_log

if TYPE_CHECKING:
    from argparse import Namespace

_LINE_LIMIT = 64 * 1024
"""Characters of a line that doesn't end, after which it is logged so far."""
_TRACEBACK = "Traceback (most recent call last):"


def take_over() -> None:
    """Have devpi's set-up of its log, at each of its commands, keep our handler; and take what goes to stderr."""
    root = logging.getLogger()
    handlers, level, streams = root.handlers[:], root.level, (sys.stdout, sys.stderr)
    set_up = devpi_log._configure_logging

    def configure(config_args: Namespace) -> None:
        root.handlers[:] = handlers  # devpi has removed them; where there are any, it adds none
        root.setLevel(logging.DEBUG if getattr(config_args, "debug", False) else max(level, logging.INFO))
        if getattr(config_args, "logger_cfg", None):
            sys.stdout, sys.stderr = streams  # its handlers may write there
        set_up(config_args)

    devpi_log._configure_logging = configure
    sys.stderr = Printed(logging.getLogger("devpi.stderr"), logging.WARNING)


def take_stdout() -> None:
    """Take what is printed, too; before this, --help and --version are."""
    sys.stdout = Printed(logging.getLogger("devpi.stdout"), logging.INFO)


class Printed(io.TextIOBase):
    """A stream that makes a log line of each line written to it, and one of a whole traceback."""

    encoding = "utf-8"

    def __init__(self, logger: logging.Logger, level: int) -> None:
        self._logger = logger
        self._level = level
        self._threads = threading.local()

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str) -> int:
        """Log the lines that `text` ends; what is behind the last of them waits for its end."""
        *lines, rest = (getattr(self._threads, "rest", "") + text).split("\n")
        if len(rest) > _LINE_LIMIT:
            lines, rest = [*lines, rest], ""
        self._threads.rest = rest
        for line in lines:
            self._line(line)
        return len(text)

    def flush(self) -> None:
        """Nothing: devpi flushes in the middle of lines."""

    def _line(self, line: str) -> None:
        trace: list[str] = getattr(self._threads, "trace", [])
        if line == _TRACEBACK or (trace and line.startswith(" ")):
            self._threads.trace = [*trace, line]
        elif trace:  # its last line, which names the exception
            self._threads.trace = []
            self._logger.error("%s", line, extra={"stack": "\n".join([*trace, line])})
        elif line.strip():
            level = logging.ERROR if line.startswith(("fatal:", "error:")) else self._level
            self._logger.log(level, "%s", line)
