"""Equal password checks share one run, and a password that matched is cached for a minute.

Clients such as pip and uv send user and password with each request, up to 50 at once: that is one check, not 50. Two
checks are equal if user, password, hash and salt are equal; each request reads hash and salt again, so a request after
a change of the password never shares a check from before it. Only digests are kept, keyed with a key of this process.

A request waits for its check in one of waitress's threads. At most half of the threads may wait, so that other requests
are answered; threads are added while more requests wait.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from sidecar.worker.fifo_lock import FifoLock

if TYPE_CHECKING:
    from waitress.task import ThreadedTaskDispatcher

WAITING = 24
"""Different checks that may wait for the running one."""
KNOWN_SECONDS = 60.0
"""For how long a password that matched is cached; requests do not extend it."""
MOST_KNOWN = 1_000
"""Passwords in the cache."""
MOST_WAITING = 100
"""Requests that may wait for checks: devpi-server's default of connections."""


class Full(Exception):
    """Too many checks or requests wait already."""


class Threads:
    """waitress's threads: more of them while many wait."""

    def __init__(self) -> None:
        self._dispatcher: ThreadedTaskDispatcher | None = None
        self._usual = 0
        self._grown = False

    def are_of(self, dispatcher: ThreadedTaskDispatcher) -> None:
        """Set the server's threads, once they exist."""
        self._dispatcher, self._usual = dispatcher, len(dispatcher.threads)

    def have(self, waiting: int) -> None:
        """Ensure that at most half of the threads wait. For one caller at a time. Raises Full."""
        if waiting > MOST_WAITING:
            raise Full
        dispatcher = self._dispatcher
        if dispatcher is None:
            return
        while (count := len(dispatcher.threads) - dispatcher.stop_count) < 2 * waiting:
            self._grown = True
            before = dispatcher.threads.copy()
            try:
                dispatcher.set_thread_count(count + 1)
            except (RuntimeError, MemoryError):  # can't start a thread, but waitress has counted it already
                with dispatcher.lock:
                    dispatcher.threads &= before
                raise Full from None

    def be_as_usual(self) -> None:
        """Return to the usual number of threads, because none waits any more."""
        if self._grown and self._dispatcher is not None:
            self._grown = False
            self._dispatcher.set_thread_count(self._usual)


class SharedChecks:
    """One check at a time, a short queue of different ones, and any number of requests that wait for each."""

    def __init__(
        self,
        matches: Callable[[str, str, str | None], bool],
        threads: Threads,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`matches`: whether a password matches a hash and its salt; raises if that can't be determined."""
        self._matches = matches
        self._threads = threads
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._guard = threading.Lock()
        self._running: dict[bytes, Future[bool]] = {}
        self._known: dict[bytes, float] = {}
        self._asked: Counter[bytes] = Counter()
        """How many requests with a user and password run or wait for a check."""
        self._matched: dict[bytes, float] = {}
        """Until when a user and password are cached for some hash; this is not a verdict."""
        self._waiting = 0
        self._turn = FifoLock()
        """Held by the one check that may use argon2: a write transaction of devpi's that needs argon2 waits only for
        that check, not for all of them."""

    def admit(self, user: str, password: str) -> None:
        """Raise Full if this request can neither share a check nor queue a new one, whatever the hash is.

        The hash is not needed for that, so a rejected request costs no transaction.
        """
        with self._guard:
            if len(self._running) <= WAITING:
                return
            pair = self._name(user, password)
            if not self._asked[pair] and self._matched.get(pair, 0.0) <= self._clock():
                raise Full

    def matches(self, user: str, password: str, pwhash: str, pwsalt: str | None) -> bool:
        """Whether the password matches. Raises Full at once, and what the check raises."""
        name = self._name(user, password, pwhash, pwsalt)
        with self._guard:
            if self._is_known(name):
                return True
            pair = self._name(user, password)
            check = self._running.get(name)
            if check is None and len(self._running) > WAITING:
                raise Full
            self._threads.have(self._waiting + 1)
            self._waiting += 1
            leads = check is None
            if check is None:
                check = self._running[name] = Future()
            self._asked[pair] += 1
        try:
            if leads:
                self._run(name, pair, check, password, pwhash, pwsalt)
            return check.result()
        finally:
            with self._guard:
                self._waiting -= 1
                self._asked[pair] -= 1
                if not self._asked[pair]:
                    del self._asked[pair]
                if not self._waiting:
                    self._threads.be_as_usual()

    def _run(
        self, name: bytes, pair: bytes, check: Future[bool], password: str, pwhash: str, pwsalt: str | None
    ) -> None:
        """Run the check, and pass its result to all requests that wait for it."""
        try:
            with self._turn:
                began = self._clock()
                matches = self._matches(password, pwhash, pwsalt)
        except BaseException as error:
            with self._guard:
                del self._running[name]
            check.set_exception(error)
        else:
            with self._guard:  # in one step, so that no request in between starts the check again
                del self._running[name]
                if matches:
                    for known, key in ((self._known, name), (self._matched, pair)):
                        self._remember(known, key, began + KNOWN_SECONDS)
            check.set_result(matches)

    def _is_known(self, name: bytes) -> bool:
        return self._known.get(name, 0.0) > self._clock()

    def _remember(self, known: dict[bytes, float], key: bytes, until: float) -> None:
        now = self._clock()
        known.pop(key, None)
        while known:  # the oldest is the first
            oldest = next(iter(known))
            if len(known) < MOST_KNOWN and known[oldest] > now:
                break
            del known[oldest]
        known[key] = until

    def _name(self, user: str, password: str, pwhash: str | None = None, pwsalt: str | None = None) -> bytes:
        digest = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in (user, password, pwhash, pwsalt):
            data = b"" if part is None else part.encode(errors="surrogatepass")
            digest.update((b"-" if part is None else b"+") + len(data).to_bytes(8, "big") + data)
        return digest.digest()
