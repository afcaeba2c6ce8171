"""A lock that is acquired in the order of the requests."""

from __future__ import annotations

import threading
from collections import deque


class FifoLock:
    """A lock that is acquired in the order of the requests.

    A `threading.Lock` goes to the thread that happens to run, often a newcomer: under load, some threads wait several
    times as long as others.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._taken = False
        self._line: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            call = threading.Lock()
            call.acquire()
            self._line.append(call)
        call.acquire()

    def __exit__(self, *_: object) -> None:
        with self._guard:
            if self._line:
                self._line.popleft().release()
            else:
                self._taken = False
