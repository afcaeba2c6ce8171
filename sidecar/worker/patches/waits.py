"""How long a request waits for an upstream: for the end of a short outage, and not if too many others wait already."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sidecar.worker.patches.failures import PASSING
from sidecar.worker.upstream.upstream_client import UpstreamClient

_CROWDED = 1.0
"""If half of devpi's threads wait for upstreams, and one for so many seconds, no further thread waits."""
_YOUNG = 10.0
"""Seconds for which an outage is waited for: a longer one is answered at once."""
_MOMENT = 0.25
"""Seconds between two attempts in an outage; while the breaker is open, they don't reach upstream."""


class Outage:
    """A request waits for the end of a short outage: uv gives up after 4 seconds, and some pips at once."""

    def __init__(self, client: UpstreamClient | None, seconds: float) -> None:
        self._client = client
        self._until = time.monotonic() + seconds

    def may_end(self, answer: Any) -> bool:  # noqa: ANN401
        """Wait a moment; False: `answer` (None: none in time) is no failure that soon ends, or it is too late."""
        cause = getattr(answer, "cause", None)
        if self._client is None or cause is None or cause.kind not in PASSING:
            return False
        since, now = self._client.counts.failing_since, time.monotonic()
        if since is None or now - since > _YOUNG or now + max(_MOMENT, answer.retry_after or 0) > self._until:
            return False
        time.sleep(_MOMENT)
        return True


class Crowd:
    """The threads that wait for upstreams; half of them must be free for other requests."""

    def __init__(self) -> None:
        self.places = 25
        self._since: dict[int, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def waiting(self) -> Iterator[bool]:
        """Wait in this block; False: there is no place, so do not."""
        me, now = threading.get_ident(), time.monotonic()
        with self._lock:
            is_first = me not in self._since
            has_place = not is_first or (len(self._since) < self.places or now - min(self._since.values()) < _CROWDED)
            if is_first and has_place:
                self._since[me] = now
        try:
            yield has_place
        finally:
            if is_first and has_place:
                with self._lock:
                    del self._since[me]


CROWD = Crowd()


def leave_threads_free(threads: int) -> None:
    """Let at most half of devpi's threads wait for upstreams that are slow."""
    CROWD.places = max(1, threads // 2)
