"""Turn what devpi-server and its plugins print into log lines: a record a line, one for a whole traceback.

If `--logger-cfg` is set, devpi-server logs as that file says, and printed text is left as it is.
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
"""Characters after which a line without an end is logged in part."""
_TRACEBACK = "Traceback (most recent call last):"


def take_over() -> None:
    """Make devpi's log set-up, which each of its commands runs, keep our handler; and redirect stderr."""
    root = logging.getLogger()
    handlers, level, streams = root.handlers[:], root.level, (sys.stdout, sys.stderr)
    set_up = devpi_log._configure_logging

    def configure(config_args: Namespace) -> None:
        root.handlers[:] = handlers  # devpi has removed them; it adds none if there are any
        root.setLevel(logging.DEBUG if getattr(config_args, "debug", False) else max(level, logging.INFO))
        if getattr(config_args, "logger_cfg", None):
            sys.stdout, sys.stderr = streams  # its handlers may write there
        set_up(config_args)

    devpi_log._configure_logging = configure
    sys.stderr = Printed(logging.getLogger("devpi.stderr"), logging.WARNING)


def take_stdout() -> None:
    """Redirect stdout, too; only after `--help` and `--version` are printed."""
    sys.stdout = Printed(logging.getLogger("devpi.stdout"), logging.INFO)


class Printed(io.TextIOBase):
    """A stream that logs each line written to it, and a traceback up to its exception as one record.

    Each thread has lines of its own. The parts of a chain are a record each, and the lines of an exception group, too:
    devpi-server prints neither. A flush logs a traceback that has not come to its exception.
    """

    encoding = "utf-8"

    def __init__(self, logger: logging.Logger, level: int) -> None:
        self._logger = logger
        self._level = level
        self._threads = threading.local()

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str) -> int:
        """Log the lines that `text` ends; the rest waits for its end, also over a flush: devpi flushes within lines."""
        *lines, rest = (getattr(self._threads, "rest", "") + text).split("\n")
        if len(rest) > _LINE_LIMIT:
            lines, rest = [*lines, rest], ""
        self._threads.rest = rest
        for line in lines:
            self._line(line)
        return len(text)

    def flush(self) -> None:
        """Log the calling thread's traceback if it has frames, but no exception yet."""
        trace: list[str] | None = getattr(self._threads, "trace", None)
        if trace is not None and len(trace) > 1:
            self._trace(trace)

    def _line(self, line: str) -> None:
        trace: list[str] | None = getattr(self._threads, "trace", None)
        if trace is not None:
            trace.append(line)
            if not line.startswith(" ") or sum(map(len, trace)) > _LINE_LIMIT:
                self._trace(trace)
        elif line == _TRACEBACK:
            self._threads.trace = [line]
        elif line.strip():
            level = logging.ERROR if line.startswith(("fatal:", "error:")) else self._level
            self._logger.log(level, "%s", line)

    def _trace(self, trace: list[str]) -> None:
        self._threads.trace = None
        self._logger.error("%s", trace[-1].strip() or trace[0], extra={"stack": "\n".join(trace).rstrip()})
