"""The rate of devpi-server's requests, and the time of the last upload."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import datetime

from sidecar.core.lifecycle import now
from sidecar.devpi.protocol import Requests

_EVERY = 5.0
"""Minimum seconds between two samples."""
_SAMPLES = 13
"""Samples that are kept: those of a minute."""


class Pace:
    """Follows the requests of all of devpi-server's processes. Lives on the event loop."""

    def __init__(self, counted: Callable[[], Requests | None], clock: Callable[[], float] = time.monotonic) -> None:
        """`counted` returns the counts of all requests; None: there was none yet."""
        self.last_upload: datetime | None = None
        """The time of the last upload, to a tick; None: there was none since the start."""
        self._counted = counted
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)
        self._uploads = 0

    def look(self) -> None:
        """Note an upload, and take a sample if one is due. Call this at each tick."""
        if (uploads := self.uploads()) > self._uploads:
            self._uploads, self.last_upload = uploads, now()
        at = self._clock()
        if not self._samples or at - self._samples[-1][0] >= _EVERY:
            self._samples.append((at, self.requests()))

    def requests(self) -> int:
        """Return the answered requests since the container started."""
        counted = self._counted()
        routes = {} if counted is None else counted.routes
        return sum(sum(route["statuses"].values()) for route in routes.values())

    def uploads(self) -> int:
        """Return the accepted uploads among them."""
        counted = self._counted()
        return 0 if counted is None else int(counted.routes["upload"]["statuses"].get("200", 0))

    def per_second(self) -> float | None:
        """Return the requests per second in the last minute; None: not known yet."""
        if len(self._samples) < 2:
            return None
        (began, before), (ended, after) = self._samples[0], self._samples[-1]
        return (after - before) / (ended - began)
