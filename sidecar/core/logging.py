"""Log lines on stdout, of both processes alike: text for people, or JSON for collectors (Elastic Common Schema).

Each process formats its own lines and writes each with one system call: no pipe between them that could block, and
nothing in a buffer that a crash would take along.
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
"""The version of the Elastic Common Schema that the names of JSON's fields are from."""
MESSAGE_LIMIT = 4000
"""Bytes of a message, as they are written; Docker and Kubernetes tear lines above 16 KiB, …"""
STACK_LIMIT = 10_000
"""… so this is for a traceback."""

_STDOUT = 1
_WIDEST = 12
"""Bytes of one character at most, as it is written: in JSON, one outside the first 65,536 is two escapes."""
_USERINFO = re.compile(
    r"(?<=://)(?:[^\s/?#]*@"  # up to the last @ before the path: a password may have one
    r"|(?!\[)[^\s/?#:]*:(?!\d*(?:[^\w.%~-]|$))[^\s'\"]{0,200}@)"  # no port follows: a password with a bare / ? or #
)
"""The user and the password in a URL. It takes time in proportion to the text, whatever that is."""
_COLORS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


def configure(style: str, level: str, service: str, *, access: bool = False) -> Lines:
    """Send everything at or above `level` to stdout, warnings and uncaught exceptions too.

    `style`: json, text, or color, which is text with colours if stdout is a terminal. `access`: the sidecar's requests.
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
    """`text` without the user and the password of any URL in it: devpi-server logs those of its mirrors."""
    return _USERINFO.sub("***@", text) if "://" in text and "@" in text else text


class Lines(logging.Formatter):
    """Makes one line of a record, and knows what all lines of this process have in common."""

    phase: Callable[[], str] | None = None
    """Says which phase of its life the container is in, where this process knows it."""


class JsonLines(Lines):
    """One JSON object a line, with the field names of the Elastic Common Schema, dotted; ours begin with `sidecar.`."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The record; `fields` of it (a dict given by `extra`) become fields as they are."""
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
    """devpi-server's own shape with the logger's name; nothing in a message can begin a line or steer a terminal."""

    def __init__(self, *, color: bool = False) -> None:
        super().__init__()
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        """One line; below it the traceback as Python prints it, indented: no line of it can pass for one of the log."""
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
    """Writes each line at once and whole. Nobody there to read is no reason to fail."""

    def __init__(self, formatter: Lines) -> None:
        super().__init__()
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; one that can't be formatted is named by its place in the code."""
        try:
            line = self.format(record)
        except Exception as error:
            said = (record.pathname, record.lineno, type(error).__name__)
            broken = ("a log line of %s:%d can't be formatted: %s", said, None)
            line = self.format(logging.LogRecord(record.name, logging.ERROR, record.pathname, record.lineno, *broken))
        data = f"{line}\n".encode(errors="backslashreplace")
        with suppress(OSError):
            while data:
                data = data[os.write(_STDOUT, data) :]


@lru_cache(maxsize=1)
def _second(at: int) -> str:
    """A second since the epoch in local time, as Python's own logs have it; devpi-server's has many lines in one."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _name(record: logging.LogRecord) -> str:
    """The logger; devpi-server logs all on the root logger."""
    return "devpi" if record.name == "root" else record.name


def _stack(record: logging.LogRecord) -> str:
    """The traceback of the record, as Python prints it, or what was given as its `stack`; empty: there is none."""
    if not record.exc_info or record.exc_info[1] is None:
        return redact(str(getattr(record, "stack", "")))
    return redact("".join(traceback.format_exception(record.exc_info[1])).rstrip("\n"))


def _cut(text: str, limit: int, written: Callable[[str], str]) -> str:
    """`text` with the middle left out where `written`, a byte or more a character, makes over `limit` bytes of it."""
    if _WIDEST * len(text) <= limit or (len(text) <= limit and len(written(text).encode()) <= limit):
        return text
    head = _fitting(text[:limit], limit // 2, written)
    tail = _fitting(text[: -limit - 1 : -1], limit - limit // 2, written)
    return f"{text[:head]} […{len(text) - head - tail} characters left out…] {text[len(text) - tail :]}"


def _fitting(text: str, room: int, written: Callable[[str], str]) -> int:
    """How many characters from the beginning of `text` on `written` makes at most `room` bytes of."""
    return bisect_right(range(1, len(text) + 1), room, key=lambda count: len(written(text[:count]).encode()))


def _in_json(text: str) -> str:
    """`text` as it is between the quotes of JSON: in ASCII."""
    return json.dumps(text)[1:-1]


def _indented(stack: str) -> str:
    """Its lines, each of which can be no line of the log."""
    return "".join(f"\n  {_escape(each)}" for each in stack.split("\n"))


def _escape(text: str) -> str:
    """`text` with control, bidi and unpaired characters escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _unicode(text: str) -> str:
    """`text` with unpaired surrogates escaped, which Python has for bytes that aren't UTF-8, and JSON must not have."""
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


# On the root logger: a devpi-server's --logger-cfg may have disabled all others.


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
