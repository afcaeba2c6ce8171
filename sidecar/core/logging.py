"""Log lines on stdout, the same for both processes: text for people, or JSON for collectors (Elastic Common Schema).

Each process formats its own lines and writes each with one system call: no pipe between them can block, and a crash
loses no buffered line.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
import traceback
import warnings
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from types import TracebackType
from typing import TextIO

from sidecar.core.request_id import REQUEST_ID

ECS_VERSION = "8.11.0"
"""The version of the Elastic Common Schema that defines the field names."""
MESSAGE_LIMIT = 4000
"""Maximum bytes of a message as written: Docker and Kubernetes split lines above 16 KiB."""
STACK_LIMIT = 10_000
"""Maximum bytes of a traceback as written."""

_STDOUT = 1
_WIDEST = 12
"""Maximum bytes of one character as written: in JSON, one beyond U+FFFF is two escapes."""
_USERINFO = re.compile(
    r"(?<=://)(?:[^\s/?#]*@"  # up to the last @ before the path: a password may contain one
    r"|(?!\[)[^\s/?#:]*:(?!\d*(?:[^\w.%~-]|$))[^\s'\"]{0,200}@)"  # no port follows: a password with a bare / ? or #
)
"""User and password in a URL. Its time is linear in the length of any text."""
_COLORS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


def configure(style: str, level: str, service: str, *, access: bool = False) -> Lines:
    """Log everything at or above `level` to stdout, including warnings and uncaught exceptions.

    `style`: json, text, or color (text, with colours if stdout is a terminal). `access`: log the sidecar's requests.
    """
    formatter: Lines = JsonLines(service) if style == "json" else TextLines(color=style == "color" and _is_terminal())
    root = logging.getLogger()
    root.handlers[:] = [Stdout(formatter)]
    root.setLevel(level)
    logging.getLogger("sidecar.access").setLevel(logging.INFO if access else logging.WARNING)
    warnings.showwarning = _warned
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable
    return formatter


def redact(text: str) -> str:
    """Return `text` without user and password of URLs: devpi-server logs those of its mirrors."""
    return _USERINFO.sub("***@", text) if "://" in text and "@" in text else text


class Lines(logging.Formatter):
    """Formats a record as one line."""

    phase: Callable[[], str] | None = None
    """Returns the container's phase; None in a process that has no access to it."""


class JsonLines(Lines):
    """One JSON object a line, with the dotted names of the Elastic Common Schema; our own begin with `sidecar.`."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON; the dict `fields` (set by `extra`) is merged into it."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "@timestamp": at.replace("+00:00", "Z"),
            "log.level": record.levelname.lower(),
            "message": _cut(_unicode(redact(record.getMessage())), MESSAGE_LIMIT, _in_json),
            "ecs.version": ECS_VERSION,
            "service.name": self._service,
            "log.logger": _name(record),
            "process.pid": record.process,
        }
        if self.phase is not None:
            line["sidecar.phase"] = self.phase()
        if (request := REQUEST_ID.get()) is not None:
            line["http.request.id"] = request
        for name, value in getattr(record, "fields", {}).items():
            line[name] = redact(value) if isinstance(value, str) else value
        if record.exc_info and record.exc_info[0] is not None:
            line["error.type"] = record.exc_info[0].__name__
            line["error.message"] = _cut(_unicode(redact(str(record.exc_info[1]))), MESSAGE_LIMIT // 4, _in_json)
        if stack := _stack(record):
            line["error.stack_trace"] = _cut(_unicode(stack), STACK_LIMIT, _in_json)
        return json.dumps(line)


class TextLines(Lines):
    """devpi-server's own format plus the logger's name; no message can start a new line or control a terminal."""

    def __init__(self, *, color: bool = False) -> None:
        super().__init__()
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line, followed by its traceback, indented so that it can't imitate a log line."""
        level = f"{record.levelname:<5.5}"
        if self._color and (code := _COLORS.get(record.levelname)):
            level = f"\x1b[{code}m{level}\x1b[0m"
        message = _escape(_cut(redact(record.getMessage()), MESSAGE_LIMIT, _escape))
        at = f"{_second(int(record.created))},{int(record.msecs):03d}"
        line = f"{at} {level} [{_name(record)}] {message}"
        if (request := REQUEST_ID.get()) is not None:
            line += f" (request {request})"
        if stack := _stack(record):
            line += _indented(_cut(stack, STACK_LIMIT, _indented))
        return line


class Stdout(logging.Handler):
    """Writes each line at once and whole; a closed stdout is no error."""

    def __init__(self, formatter: Lines) -> None:
        super().__init__()
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; if it can't be formatted, write where in the code it was logged."""
        try:
            line = self.format(record)
        except Exception as error:
            place = (record.pathname, record.lineno, type(error).__name__)
            broken = ("a log line of %s:%d can't be formatted: %s", place, None)
            line = self.format(logging.LogRecord(record.name, logging.ERROR, record.pathname, record.lineno, *broken))
        data = f"{line}\n".encode(errors="backslashreplace")
        with suppress(OSError):
            while data:
                data = data[os.write(_STDOUT, data) :]


@lru_cache(maxsize=1)
def _second(at: int) -> str:
    """Return a second since the epoch as local time; cached, because devpi-server logs many lines in one second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _name(record: logging.LogRecord) -> str:
    """Return the logger's name; devpi-server uses the root logger."""
    return "devpi" if record.name == "root" else record.name


def _stack(record: logging.LogRecord) -> str:
    """Return the record's traceback as Python prints it, or its `stack` (set by `extra`); empty: none."""
    if not record.exc_info or record.exc_info[1] is None:
        return redact(str(getattr(record, "stack", "")))
    return redact("".join(traceback.format_exception(record.exc_info[1])).rstrip("\n"))


def _cut(text: str, limit: int, written: Callable[[str], str]) -> str:
    """Return `text` without its middle if `written` turns it into more than `limit` bytes (at least 1 a character)."""
    if _WIDEST * len(text) <= limit or (len(text) <= limit and len(written(text).encode()) <= limit):
        return text
    head = _fitting(text[:limit], limit // 2, written)
    tail = _fitting(text[: -limit - 1 : -1], limit - limit // 2, written)
    return f"{text[:head]} […{len(text) - head - tail} characters left out…] {text[len(text) - tail :]}"


def _fitting(text: str, room: int, written: Callable[[str], str]) -> int:
    """Return how many leading characters of `text` fit into `room` bytes as `written`."""
    return bisect_right(range(1, len(text) + 1), room, key=lambda count: len(written(text[:count]).encode()))


def _in_json(text: str) -> str:
    """Return `text` as between the quotes of JSON, in ASCII."""
    return json.dumps(text)[1:-1]


def _indented(stack: str) -> str:
    """Return the lines of `stack`, indented."""
    return "".join(f"\n  {_escape(each)}" for each in stack.split("\n"))


def _escape(text: str) -> str:
    """Return `text` with control and bidi characters and unpaired surrogates escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _unicode(text: str) -> str:
    """Return `text` with unpaired surrogates escaped: Python decodes invalid UTF-8 to them, JSON forbids them."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _is_terminal() -> bool:
    try:
        return os.isatty(_STDOUT)
    except OSError:
        return False


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    logging.getLogger("py.warnings").warning("%s: %s (%s:%d)", category.__name__, message, filename, lineno)


# On the root logger: devpi-server's --logger-cfg may have disabled all others.


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger().critical("uncaught exception", exc_info=(kind, error, trace))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        name = args.thread.name if args.thread else "?"
        error = (args.exc_type, args.exc_value, args.exc_traceback)
        logging.getLogger().error("uncaught exception in thread %s", name, exc_info=error)


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    error = args.exc_value
    exc_info = None if error is None else (type(error), error, args.exc_traceback)
    logging.getLogger().error("%s: %r", args.err_msg or "exception ignored in", args.object, exc_info=exc_info)
