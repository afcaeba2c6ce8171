"""What devpi-server says, in the shape of all lines: its log, and what it or a plugin prints.

An operator's own --logger-cfg wins: devpi-server then logs as that says, and what it prints is left alone.
"""

from __future__ import annotations

import io
import logging
import re
import sys
import threading
import time
from contextvars import copy_context
from typing import TYPE_CHECKING

from devpi_server import log as devpi_log

if TYPE_CHECKING:
    from argparse import Namespace

_LINE_LIMIT = 64 * 1024
"""Characters of a line that doesn't end, after which it is logged so far."""
_TRACEBACK = "Traceback (most recent call last):"
_GROUP = "  + Exception Group Traceback (most recent call last):"
_LINKS = frozenset({
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
})  # fmt: skip
_OF_GROUP = re.compile(r" +[|+]")
_NAME_OF_GROUP = re.compile(r"  \| (\S.*)")
_PATIENCE = 0.5
"""Seconds after which a traceback that nothing was written to is taken for whole."""


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
    """A stream that makes a log line of each line written to it, and one of a whole traceback, with all its causes."""

    encoding = "utf-8"

    def __init__(self, logger: logging.Logger, level: int) -> None:
        self._logger = logger
        self._level = level
        self._threads = threading.local()
        self._open: set[_Traceback] = set()

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
        """Log the tracebacks that may have ended, of all threads: the process may end now, or fork.

        Halves of lines wait, for devpi flushes in the middle of them.
        """
        for trace in tuple(self._open):
            if trace.may_have_ended:
                trace.log()

    def _line(self, line: str) -> None:
        trace: _Traceback | None = getattr(self._threads, "trace", None)
        if trace is not None:
            if trace.take(line):
                return
            self._threads.trace = None
            trace.log()
        if line in (_TRACEBACK, _GROUP):
            self._threads.trace = _Traceback(line, self._logger, self._open)
        elif line.strip():
            level = logging.ERROR if line.startswith(("fatal:", "error:")) else self._level
            self._logger.log(level, "%s", line)


class _Traceback:
    """One that a thread prints line by line, with its causes. That it has ended shows in what comes next, or in that
    nothing comes.
    """

    def __init__(self, header: str, logger: logging.Logger, still_open: set[_Traceback]) -> None:
        self._logger = logger
        self._open = still_open
        self._lock = threading.Lock()
        self._context = copy_context()  # for the request's id, where another thread logs it
        self._lines: list[str] = []
        self._logged = False
        self._begin(header)
        self._touched = time.monotonic()
        self._open.add(self)
        self._wait(_PATIENCE)

    @property
    def may_have_ended(self) -> bool:
        """Whether the exception has been named."""
        return self._reported is not None

    def take(self, line: str) -> bool:
        """Take the next line, if it belongs to this traceback."""
        with self._lock:
            self._touched = time.monotonic()
            return not self._logged and self._belongs(line)

    def log(self) -> None:
        """Log it, once, without the blank lines at its end."""
        with self._lock:
            if self._logged:
                return
            self._logged = True
        self._open.discard(self)
        if self._timer is not threading.current_thread():
            self._timer.cancel()
            self._timer.join()  # for who forks next
        stack = "\n".join(self._lines).rstrip()
        said = self._reported or self._lines[0]
        self._context.run(self._logger.error, "%s", said, extra={"stack": stack})

    def _begin(self, header: str) -> None:
        """The first of the chain, or the one that the line before has announced."""
        self._lines.append(header)
        self._group = header == _GROUP
        self._inside = True
        self._linked = False
        self._reported: str | None = None

    def _belongs(self, line: str) -> bool:
        if self._inside:
            if self._group and line != _GROUP and _OF_GROUP.match(line):
                if self._reported is None and (name := _NAME_OF_GROUP.match(line)):
                    self._reported = name[1]
            elif self._group:
                self._inside = False
                return self._belongs(line)
            elif not line.startswith(" "):
                self._inside, self._reported = False, line
        elif self._linked and line in (_TRACEBACK, _GROUP):
            self._begin(line)
            return True
        elif line in _LINKS:
            self._linked = True
        elif line.strip():
            return False
        self._lines.append(line)
        return True

    def _wait(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._log_if_idle)
        self._timer.daemon = True
        self._timer.start()

    def _log_if_idle(self) -> None:
        idle = time.monotonic() - self._touched
        if idle >= _PATIENCE:
            self.log()
        elif not self._logged:
            self._wait(_PATIENCE - idle)
