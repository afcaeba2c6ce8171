"""Probes upstreams that are not asked otherwise, in a thread that lives only as long as there are any."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable

from sidecar.worker.upstream.breaker import Breaker


class Prober:
    """Probes each open breaker when it is due. Thread-safe."""

    def __init__(self, breakers: Callable[[], Iterable[Breaker]], probe: Callable[[Breaker], object]) -> None:
        """`probe` asks the upstream and ends the breaker's probe."""
        self._breakers = breakers
        self._probe = probe
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def wake(self) -> None:
        """A breaker was opened."""
        with self._condition:
            if self._closed:
                return
            self._condition.notify_all()
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="upstream-prober", daemon=True)
                with contextlib.suppress(RuntimeError):  # no memory for a thread now; the next request tries again
                    thread.start()
                    self._thread = thread

    def close(self) -> None:
        """End the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    @property
    def running(self) -> bool:
        """Whether the thread exists."""
        with self._condition:
            return self._thread is not None

    def _run(self) -> None:
        while True:
            with self._condition:
                waits = [wait for breaker in self._breakers() if (wait := breaker.wait()) is not None]
                if self._closed or not waits:
                    self._thread = None
                    return
                if min(waits) > 0:
                    self._condition.wait(min(waits))
                    continue
            for breaker in list(self._breakers()):
                if breaker.begin_probe():
                    self._probe(breaker)
