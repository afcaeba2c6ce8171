"""The breakers of one mirror: one for its upstream, and one for each other host that it is sent to."""

from __future__ import annotations

import threading
import time

import httpx
from devpi_server.log import threadlog

from sidecar.worker.upstream import causes
from sidecar.worker.upstream.breaker import LONGEST_RETRY_AFTER, Breaker
from sidecar.worker.upstream.causes import Cause, printable
from sidecar.worker.upstream.counts import Counts
from sidecar.worker.upstream.origins import authority, origin, origin_words, without_userinfo
from sidecar.worker.upstream.prober import Prober
from sidecar.worker.upstream.sending import Attempt, Sender
from sidecar.worker.upstream.streams import ERRORS, deadline_in

PAGE_TIMEOUT = "DEVPI_MIRROR_PAGE_TIMEOUT"
PROBE_SECONDS = 5.0
"""Total time of a probe."""
_FOREIGN_SECONDS = 1.0
"""The same, of another host: all are probed in turn, and the index's own must not wait long."""
_ORIGINS = 16
"""Hosts of files for which a breaker is kept, besides the index's own."""
_QUIET = 60.0
"""Seconds in which the same change of state is not logged again: an upstream may come and go."""


class Breakers:
    """Thread-safe."""

    def __init__(self, index: str, url: httpx.URL, sender: Sender, counts: Counts) -> None:
        """`url`: of the index, without credentials."""
        self._index = index
        self._url = url
        self._sender = sender
        self._counts = counts
        self._lock = threading.Lock()
        self._causes: dict[Breaker, Cause] = {}
        """The last failure that each breaker counted."""
        self._logged: dict[bool, float] = {}
        self._prober = Prober(self._all_breakers, self._run_probe)
        self.own = Breaker(self._changed)
        """The index's own."""
        self._of: dict[tuple[str, str, int | None], Breaker] = {origin(url): self.own}
        self._probe_urls: dict[Breaker, httpx.URL] = {self.own: url}

    def of(self, url: httpx.URL) -> Breaker | None:
        """Return the breaker of a URL's origin; None: it has none."""
        key = origin(url)
        with self._lock:
            breaker = self._of.get(key)
            if breaker is None and len(self._of) <= _ORIGINS and url.scheme in ("http", "https"):
                breaker = self._of[key] = Breaker(lambda opened: self._prober.wake() if opened else None)
                self._probe_urls[breaker] = without_userinfo(url).copy_with(path="/", query=None)
            return breaker

    def why_open(self, breaker: Breaker) -> Cause:
        """Return the failure that opened a breaker."""
        self._prober.wake()  # it may have failed to start
        return self._causes.get(breaker) or Cause("status", "the upstream fails", "wait until it is probed again")

    def probe(self) -> bool:
        """As `UpstreamClient.probe`."""
        mine = self.own.begin_probe()
        cause, wait = self._ask(self._url, foreign=False)
        self._counts.probed(cause)
        if mine:
            self.own.end_probe(success=cause is None, retry_after=wait)
        elif cause is not None:
            self.own.failed(answered=cause.answered, retry_after=wait)
        return cause is None

    def judge(self, attempt: Attempt, cause: Cause | None, wait: float | None) -> None:
        """Let the attempt's breaker count its result; `wait`: seconds that the upstream asks to wait."""
        breaker = attempt.breaker
        if breaker is None:
            return
        if cause is None:
            breaker.succeeded()
        elif _speaks_against(cause, attempt.status, foreign=attempt.foreign):
            self._causes[breaker] = cause
            breaker.failed(answered=cause.answered, retry_after=wait)

    def close(self) -> None:
        """End the probes."""
        self._prober.close()

    def _all_breakers(self) -> list[Breaker]:
        with self._lock:
            return list(self._probe_urls)

    def _run_probe(self, breaker: Breaker) -> None:
        foreign = breaker is not self.own
        success, answered, wait = False, False, None
        try:
            cause, wait = self._ask(self._probe_urls[breaker], foreign=foreign)
            success, answered = cause is None, cause is not None and cause.answered
            if cause is not None:
                self._causes[breaker] = cause
            if not foreign:
                self._counts.probed(cause)
        except Exception:
            threadlog.exception("the upstream of %s can't be probed", self._index)
        finally:
            breaker.end_probe(success=success, answered=answered, retry_after=wait)

    def _ask(self, url: httpx.URL, *, foreign: bool) -> tuple[Cause | None, float | None]:
        """Return why the upstream is down, and the seconds that it asks to wait; None: it is up."""
        attempt = Attempt(url, None, foreign, PAGE_TIMEOUT, host=printable(authority(url)))
        try:
            with deadline_in(_FOREIGN_SECONDS if foreign else PROBE_SECONDS, PAGE_TIMEOUT):
                response = self._sender.send(attempt, "HEAD", None, True, None, "gzip")
                response.close()
        except ERRORS as error:
            cause = causes.of_error(error, host=attempt.host, proxy=attempt.proxy)
            return (cause if cause.counts else None), None
        found = cause_of(attempt, response)
        if (
            found is None
            or response.status_code == 501
            or not _speaks_against(found, response.status_code, foreign=foreign)
        ):
            return None, None
        wait = causes.retry_after(response.headers)
        return found, None if wait is None else min(wait, LONGEST_RETRY_AFTER)

    def _changed(self, opened: bool) -> None:
        if opened:
            self._prober.wake()
        now = time.monotonic()
        if now - self._logged.get(opened, -_QUIET) < _QUIET:
            return
        self._logged[opened] = now
        cause = self._counts.last_cause
        if opened and cause is not None:
            threadlog.warn(
                "upstream of %s is down: %s (%s); it is probed until it answers", self._index, cause.reason, cause.hint
            )
        elif not opened:
            threadlog.warn("upstream of %s answers again", self._index)


def cause_of(attempt: Attempt, response: httpx.Response) -> Cause | None:
    """Return why an answer is a failure; None: it is none."""
    last = response.request.url
    redirected = origin_words(last) if attempt.history and origin(last) != origin(attempt.url) else None
    return causes.of_status(response.status_code, response.headers, proxy=attempt.proxy, redirected=redirected)


def _speaks_against(cause: Cause, status: int | None, *, foreign: bool) -> bool:
    """Return whether the breaker counts a failure; other hosts may well deny one file."""
    if not cause.counts:
        return False
    if cause.kind == "denied":
        return not foreign
    return not (cause.kind == "status" and status is not None and status < 500)
