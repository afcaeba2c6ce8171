"""What the requests to one upstream came to, for `UpstreamsSeen`."""

from __future__ import annotations

import http
import threading
import time
from typing import Any, Literal

from sidecar.core.histogram import Histogram
from sidecar.devpi.from_worker import UPSTREAM_SECONDS
from sidecar.worker.upstream.causes import Cause

Served = Literal["hit", "miss", "stale", "failed"]
"""How a client's request was answered: from the cache, from upstream, from an expired page, or not."""

_KNOWN = frozenset(int(status) for status in http.HTTPStatus)


class Counts:
    """Counts the requests to one upstream, and those of clients that it serves. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[str, int] = {}
        self._durations = Histogram(UPSTREAM_SECONDS)
        self._bytes = 0
        self._last_success: float | None = None
        self._last_failure: float | None = None
        self._cause: Cause | None = None
        """Why the last request failed; None: it succeeded."""
        self.failing_since: float | None = None
        """The monotonic time of the first failure since the last success; None: the last request succeeded."""
        self._served: dict[str, dict[Served, int]] = {
            what: {"hit": 0, "miss": 0, "stale": 0, "failed": 0} for what in ("pages", "files")
        }

    def answer(self, status: int | None, seconds: float, cause: Cause | None) -> None:
        """Count a request to the upstream that took `seconds`; `status`: None if it has no answer."""
        if status is not None:
            key = str(status) if status in _KNOWN else "other"
        else:
            key = cause.kind if cause is not None else "other"
        with self._lock:
            self._answers[key] = self._answers.get(key, 0) + 1
            self._durations.observe(seconds)
            self._note(cause)

    def fault(self, cause: Cause) -> None:
        """Count a fault after the head of an answer that was counted already."""
        with self._lock:
            self._answers[cause.kind] = self._answers.get(cause.kind, 0) + 1
            self._note(cause)

    def probed(self, cause: Cause | None) -> None:
        """Note the result of a probe, which is no answer that counts."""
        with self._lock:
            self._note(cause)

    def received(self, size: int) -> None:
        """Count bytes of a body."""
        with self._lock:
            self._bytes += size

    def page(self, served: Served) -> None:
        """Count a client's request for a page."""
        with self._lock:
            self._served["pages"][served] += 1

    def file(self, served: Served) -> None:
        """Count a client's request for a file."""
        with self._lock:
            self._served["files"][served] += 1

    @property
    def last_cause(self) -> Cause | None:
        """Why the last request failed; None: it succeeded, or there was none."""
        return self._cause

    def as_json(self, next_try: float | None = None) -> dict[str, Any]:
        """Return the fields of `UpstreamsSeen` except index, URL and list; `next_try`: the Unix time, if it is down."""
        with self._lock:
            cause = self._cause
            state = "down" if next_try is not None else "up" if cause is None else "failing"
            return {
                "state": state,
                "last_success": self._last_success,
                "last_failure": self._last_failure,
                "next_try": next_try,
                "error": None if cause is None else cause.as_json(),
                "answers": dict(self._answers),
                "durations": list(self._durations.counts),
                "seconds": self._durations.seconds,
                "pages": dict(self._served["pages"]),
                "files": dict(self._served["files"]),
                "bytes": self._bytes,
            }

    def _note(self, cause: Cause | None) -> None:
        self._cause = cause
        if cause is None:
            self._last_success = time.time()
            self.failing_since = None
        else:
            self._last_failure = time.time()
            if self.failing_since is None:
                self.failing_since = time.monotonic()
