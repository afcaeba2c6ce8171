"""Log equal lines of devpi's background threads once in 10 minutes: they retry forever, and log each attempt."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import OrderedDict

LOG_EVERY = 600.0
"""Seconds between two equal lines: same text, same error, raised at the same place."""
_THREADS = ("[REP] ", "[FREP] ", "[NOTI] ")
"""The prefixes of lines of the threads that replicate changes, replicate files, and process events."""
_REMEMBERED = 4096
_SHOWN = "sidecar_repeats_shown"


def wording(record: logging.LogRecord) -> str:
    """Return the record's text, its error, and where that was raised."""
    try:
        text = record.getMessage()
    except (TypeError, ValueError):  # wrong arguments: logging reports that itself, after the filters
        text = str(record.msg)
    if not record.exc_info or record.exc_info[1] is None:
        return text
    *_, last = traceback.walk_tb(record.exc_info[2]) if record.exc_info[2] else ((None, 0),)
    place = "" if last[0] is None else f"{last[0].f_code.co_filename}:{last[1]}"
    return f"{text} {record.exc_info[1]!r} {place}"


class NowAndThen:
    """A filter for handlers of log lines."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, float] = OrderedDict()
        """When each line was logged last."""
        self._guard = threading.Lock()

    def shows(self, record: logging.LogRecord) -> bool:
        """Whether to log the record. Each handler calls this; the first decision holds for all."""
        if not str(record.msg).startswith(_THREADS):
            return True
        if _SHOWN not in record.__dict__:
            record.__dict__[_SHOWN] = self._is_news(wording(record))
        return bool(record.__dict__[_SHOWN])

    def _is_news(self, line: str) -> bool:
        now = time.monotonic()
        with self._guard:
            last = self._seen.get(line)
            if last is not None and now - last < LOG_EVERY:
                return False
            self._seen[line] = now
            self._seen.move_to_end(line)
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        return True


def log_once() -> None:
    """Filter the log's current handlers from now on."""
    once = NowAndThen()
    for handler in logging.getLogger().handlers:
        handler.addFilter(once.shows)
