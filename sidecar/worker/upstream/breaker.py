"""The breaker of one upstream: after some failures it is not asked until a probe succeeds, so nobody waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

FAILURES = 3
"""Consecutive failures that open it."""
WAITS = (0.0, 1.0, 1.0, 1.0, 2.0, 4.0, 5.0)
"""Seconds before each probe; the last one repeats."""
LONGEST_RETRY_AFTER = 60.0
"""An upstream that asks to wait longer is asked after as many seconds."""
_UNANSWERED = 6
"""Probes without an answer, beyond those of WAITS, after which a request is let through."""
_RUNNING = 0.1
"""Seconds to wait for another thread's probe."""


class Breaker:
    """Closed, all requests are allowed; open, none; each probe decides again. Thread-safe.

    The first probe follows at once, so that the failures of one page cost the others no more than that probe. After a
    probe's success, one failure without an answer opens it again, and the waits go on from where they were, until a
    request succeeds.
    """

    def __init__(
        self,
        changed: Callable[[bool], None] = lambda opened: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`changed` is called with True when it opens, with False when it closes, outside the lock."""
        self._changed = changed
        self._clock = clock
        self._wall = wall
        self._lock = threading.Lock()
        self._failures = 0
        self._waits = 0
        """Waits that were used up since the last success of a request."""
        self._open = False
        self._trial = False
        self._probing = False
        self._due = 0.0
        self._next_try = 0.0

    def allows(self) -> bool:
        """Return whether a request may be sent."""
        with self._lock:
            return not self._open

    @property
    def next_try(self) -> float | None:
        """The Unix time of the next probe; None: it is closed."""
        with self._lock:
            return self._next_try if self._open else None

    def wait(self) -> float | None:
        """Return the seconds until the next probe, 0 if it is due; None: it is closed."""
        with self._lock:
            if not self._open:
                return None
            return max(_RUNNING if self._probing else 0.0, self._due - self._clock())

    def succeeded(self) -> None:
        """Note that a request succeeded. While it is open, only a probe closes it."""
        with self._lock:
            if not self._open:
                self._failures = self._waits = 0
                self._trial = False

    def failed(self, *, answered: bool = False, retry_after: float | None = None) -> None:
        """Note that a request failed; `retry_after`: the seconds that the upstream asks to wait."""
        with self._lock:
            if self._open:
                return
            self._failures += 1
            again = self._trial and not answered
            if not (again or retry_after is not None or self._failures >= FAILURES):
                return
            if answered or not self._trial:
                self._waits = 0
            self._shut(retry_after)
        self._changed(True)

    def begin_probe(self) -> bool:
        """Return whether to probe now: it is open, the probe is due, and no other one is running."""
        with self._lock:
            if not self._open or self._probing or self._clock() < self._due:
                return False
            self._probing = True
            return True

    def end_probe(self, *, success: bool, answered: bool = False, retry_after: float | None = None) -> None:
        """Close after a probe's success, otherwise wait for the next one.

        A probe may fail where requests don't: some upstreams deny or are slow to make what it asks for. So from time to
        time a request is let through after a failed probe, sooner if the upstream answered the probe.
        """
        with self._lock:
            self._probing = False
            if not self._open:
                return
            beyond = self._waits - len(WAITS)
            if success or (retry_after is None and beyond >= 0 and (answered or beyond % _UNANSWERED == 5)):
                self._open, self._trial, self._failures = False, True, 0
                self._waits += not success
            else:
                self._shut(retry_after)
        if success:
            self._changed(False)

    def _shut(self, retry_after: float | None) -> None:
        wait = WAITS[min(self._waits, len(WAITS) - 1)]
        self._waits += 1
        if retry_after is not None:
            wait = min(max(wait, retry_after), LONGEST_RETRY_AFTER)
        self._open = True
        self._due = self._clock() + wait
        self._next_try = self._wall() + wait
