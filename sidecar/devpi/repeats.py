"""devpi's background threads retry for ever, and log each attempt: here an equal line is logged once an hour."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict

LOG_EVERY = 3600.0
"""Seconds between two equal lines."""
_THREADS = ("[REP] ", "[FREP] ", "[NOTI] ")
"""How devpi marks the lines of those that ask a primary for changes and for files, and that processes events."""
_REMEMBERED = 4096
_SHOWN = "sidecar_repeats_shown"


class OnceAnHour:
    """A filter for handlers of log lines."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, float] = OrderedDict()
        """Line → when it was logged last."""
        self._guard = threading.Lock()

    def shows(self, record: logging.LogRecord) -> bool:
        """Whether the line is logged; by one handler as by all."""
        if not str(record.msg).startswith(_THREADS):
            return True
        if _SHOWN not in record.__dict__:
            error = record.exc_info[1] if record.exc_info else None
            record.__dict__[_SHOWN] = self._is_news(f"{record.getMessage()} {error!r}")
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
    """From now on; for the handlers that the log has by now."""
    once = OnceAnHour()
    for handler in logging.getLogger().handlers:
        handler.addFilter(once.shows)
