"""A lock that is had in the order in which it was asked for."""

from __future__ import annotations

import threading
from collections import deque


class FifoLock:
    """A lock that is had in the order in which it was asked for.

    A `threading.Lock` goes to whoever runs just then, often a newcomer: under a crowd some wait several times as long.
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
