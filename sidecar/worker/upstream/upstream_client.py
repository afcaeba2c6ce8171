"""The HTTP client of one mirror: all requests to its upstream, and to what it links and redirects to."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, cast

import httpx
from devpi_common.url import URL
from devpi_server.httpclient import FatalResponse
from devpi_server.log import threadlog

from sidecar.worker.upstream import causes, lookup
from sidecar.worker.upstream.body import Body, text_of
from sidecar.worker.upstream.breaker import LONGEST_RETRY_AFTER, Breaker
from sidecar.worker.upstream.causes import Cause, UpstreamFault, printable
from sidecar.worker.upstream.counts import Counts
from sidecar.worker.upstream.origins import authority, origin, origin_words, without_userinfo
from sidecar.worker.upstream.prober import Prober
from sidecar.worker.upstream.sending import Attempt, Sender
from sidecar.worker.upstream.streams import ERRORS, CountedStream, async_drain, deadline_in

PROBE_SECONDS = 5.0
"""Total time of a probe."""
_ORIGINS = 16
"""Hosts of files for which a breaker is kept, besides the index's own."""
_QUIET = 60.0
"""Seconds in which the same change of state is not logged again: an upstream may come and go."""

_PAGE = "DEVPI_MIRROR_PAGE_TIMEOUT"
_LIST = "DEVPI_MIRROR_LIST_TIMEOUT"
_PAGE_SIZE = "DEVPI_MIRROR_MAX_PAGE_SIZE"

Answer = httpx.Response | FatalResponse
"""Each has `cause: Cause | None` and `retry_after: int | None` (seconds that clients shall wait)."""


class FailedResponse(FatalResponse):  # type: ignore[misc,unused-ignore]
    """No answer: `status_code` is -1, as in devpi's class."""

    def __init__(self, url: URL | str, cause: Cause, retry_after: int | None = None) -> None:
        super().__init__(url, cause.reason)
        self.cause = cause
        self.retry_after = retry_after
        self.history: list[httpx.Response] = []


class UpstreamClient:
    """Requests of one mirror. Thread-safe; the asynchronous ones on one event loop.

    Offers what devpi's mirrors use of `devpi_server.httpclient.HTTPClient`. No method raises for an upstream's fault,
    except while a streamed body is read: that raises `UpstreamFault`.
    """

    def __init__(
        self,
        index: str,
        url: str,
        settings: Mapping[str, Any],
        *,
        timeout: float = 5.0,
        resolver: Callable[[str], Sequence[str]] = lookup.resolve,
    ) -> None:
        """`url`: the index's, may have user and password; `settings`: `Serve.mirror`; `timeout`: seconds of a read."""
        self._index = index
        given = httpx.URL(url)
        self._url = without_userinfo(given)
        self._page_seconds = float(settings.get("page_seconds", 60.0))
        self._page_bytes = int(settings.get("max_page_bytes", 64 * 2**20))
        self._sender = Sender(index, given, settings, timeout, resolver)
        self._lock = threading.Lock()
        self._causes: dict[Breaker, Cause] = {}
        """The last failure that each breaker counted."""
        self._logged: dict[bool, float] = {}
        self._prober = Prober(self._all_breakers, self._run_probe)
        self.counts = Counts()
        self.breaker = Breaker(self._changed)
        """The index's own; hosts of files have others."""
        self._breakers: dict[tuple[str, str, int | None], Breaker] = {origin(self._url): self.breaker}
        self._probe_urls: dict[Breaker, httpx.URL] = {self.breaker: self._url}

    @property
    def index(self) -> str:
        """The index's name, `root/pypi`."""
        return self._index

    @property
    def url(self) -> str:
        """The index's URL without user, password and query."""
        return str(self._url.copy_with(query=None))

    @property
    def last_cause(self) -> Cause | None:
        """Why the last request failed; None: it succeeded."""
        return self.counts.last_cause

    def as_json(self) -> dict[str, Any]:
        """Return the fields of `UpstreamsSeen` except those of the list."""
        return {"index": self._index, "url": self.url, **self.counts.as_json(self.breaker.next_try)}

    async def async_get(
        self,
        url: URL | str,
        *,
        allow_redirects: bool,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> tuple[Answer, str | None]:
        """Get a page: the answer, and its text if the status is below 300. Bounded in size and total time."""
        attempt = self._begin(url, _PAGE)
        if isinstance(attempt, FailedResponse):
            return attempt, None
        text: str | None = None
        try:
            try:
                async with asyncio.timeout(self._page_seconds):
                    response = await self._sender.async_send(attempt, "GET", extra_headers, allow_redirects, timeout)
                    try:
                        if response.status_code < 300:
                            text = text_of(response, await self._async_read(response, attempt.host))
                        else:
                            await async_drain(response)
                    finally:
                        await response.aclose()
            except TimeoutError:
                raise causes.total_timeout(attempt.host, self._page_seconds, _PAGE) from None
        except ERRORS as error:
            return self._failed(url, attempt, error), None
        return self._answered(attempt, response), text

    def get(
        self,
        url: URL | str,
        *,
        allow_redirects: bool,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Get a page, read; bounded as in `async_get`."""
        attempt = self._begin(url, _PAGE)
        if isinstance(attempt, FailedResponse):
            return attempt
        try:
            with deadline_in(self._page_seconds, _PAGE):
                response = self._sender.send(attempt, "GET", extra_headers, allow_redirects, timeout, "gzip")
                try:
                    body = Body(response, attempt.host, self._page_bytes, _PAGE_SIZE)
                    for chunk in response.iter_raw():
                        self.counts.received(len(chunk))
                        for _ in body.feed(chunk):
                            pass
                    content = bytes(body.end())
                finally:
                    response.close()
        except ERRORS as error:
            return self._failed(url, attempt, error)
        headers = [
            (name, value)
            for name, value in response.headers.multi_items()
            if name.lower() not in ("content-encoding", "content-length", "transfer-encoding")
        ]
        whole = httpx.Response(
            response.status_code,
            headers=headers,
            content=content,
            request=response.request,
            history=response.history,
            extensions={"reason_phrase": response.reason_phrase.encode("ascii", "replace")},
        )
        return self._answered(attempt, whole)

    def stream(
        self,
        cstack: ExitStack,
        method: str,
        url: URL | str,
        *,
        allow_redirects: bool,
        timeout: float | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Get a file: the answer's head; its body is streamed (`iter_raw`), without a limit of size and total time.

        A body that fails raises `UpstreamFault`, after it was counted.
        """
        attempt = self._begin(url, _PAGE)
        if isinstance(attempt, FailedResponse):
            return attempt
        try:
            with deadline_in(self._page_seconds, _PAGE):
                response = self._sender.send(attempt, method, extra_headers, allow_redirects, timeout, "identity")
        except ERRORS as error:
            return self._failed(url, attempt, error)
        self._counted(attempt, response, None)
        cstack.callback(response.close)
        return self._answered(attempt, response)

    @contextlib.contextmanager
    def fetch(self, url: URL | str, *, headers: Mapping[str, str] | None = None, seconds: float) -> Iterator[Answer]:
        """Get a list: the answer, whose body is streamed as received (`iter_raw`), all within `seconds`.

        Without `Accept-Encoding` in `headers` the body is not compressed. Its size is the caller's to limit.
        A body that fails or is late raises `UpstreamFault`.
        """
        attempt = self._begin(url, _LIST)
        if isinstance(attempt, FailedResponse):
            yield attempt
            return
        until = (time.monotonic() + seconds, seconds, _LIST)
        response: httpx.Response | None = None
        try:
            answer: Answer
            try:
                with deadline_in(seconds, _LIST):
                    response = self._sender.send(attempt, "GET", headers, True, None, "identity")
            except ERRORS as error:
                answer = self._failed(url, attempt, error)
            else:
                self._counted(attempt, response, until)
                answer = self._answered(attempt, response)
            yield answer
        finally:
            if response is not None:
                response.close()

    def probe(self) -> bool:
        """Ask the index's URL by HEAD, whatever the breaker says, and return whether the upstream is up."""
        mine = self.breaker.begin_probe()
        cause, wait = self._ask(self._url, foreign=False)
        self.counts.probed(cause)
        if mine:
            self.breaker.end_probe(success=cause is None, retry_after=wait)
        elif cause is not None:
            self.breaker.failed(answered=cause.answered, retry_after=wait)
        return cause is None

    def close(self) -> None:
        """Close all connections. Not for the event loop's own thread."""
        self._prober.close()
        self._sender.close()

    def _begin(self, url: URL | str, setting: str) -> Attempt | FailedResponse:
        text = url.url if isinstance(url, URL) else url
        try:
            target = httpx.URL(text)
        except (httpx.InvalidURL, ValueError):
            cause = Cause("unreadable", "the URL is not valid", "check the mirror's URL and what it links to")
            self.counts.answer(None, 0.0, cause)
            return FailedResponse(_shown(text), cause)
        breaker = self._breaker_of(target)
        next_try = None if breaker is None else breaker.wait()
        if breaker is None or next_try is None:
            return Attempt(target, breaker, breaker is not self.breaker, setting, host=printable(authority(target)))
        self._prober.wake()  # it may have failed to start
        cause = self._causes.get(breaker) or Cause("status", "the upstream fails", "wait until it is probed again")
        return FailedResponse(_shown(text), cause, max(1, round(next_try)))

    def _breaker_of(self, url: httpx.URL) -> Breaker | None:
        key = origin(url)
        with self._lock:
            breaker = self._breakers.get(key)
            if breaker is None and len(self._breakers) <= _ORIGINS and url.scheme in ("http", "https"):
                breaker = self._breakers[key] = Breaker(lambda opened: self._prober.wake() if opened else None)
                self._probe_urls[breaker] = without_userinfo(url).copy_with(path="/", query=None)
            return breaker

    async def _async_read(self, response: httpx.Response, host: str) -> bytearray:
        body = Body(response, host, self._page_bytes, _PAGE_SIZE)
        async for chunk in response.aiter_raw():
            self.counts.received(len(chunk))
            for _ in body.feed(chunk):
                await asyncio.sleep(0)
        return body.end()

    def _failed(self, url: URL | str, attempt: Attempt, error: BaseException) -> FailedResponse:
        cause = causes.of_error(error, host=attempt.host, proxy=attempt.proxy)
        self.counts.answer(None, time.monotonic() - attempt.began, cause)
        self._judge(attempt, cause, None)
        wait = None if attempt.breaker is None else attempt.breaker.wait()
        failed = FailedResponse(
            _shown(url.url if isinstance(url, URL) else url), cause, None if wait is None else max(1, round(wait))
        )
        failed.history = list(attempt.history)
        return failed

    def _answered(self, attempt: Attempt, response: httpx.Response) -> httpx.Response:
        """Count an answer, and add `cause` and `retry_after` to it."""
        cause = self._cause_of(attempt, response)
        wait = None if cause is None else causes.retry_after(response.headers)
        self.counts.answer(response.status_code, time.monotonic() - attempt.began, cause)
        self._judge(attempt, cause, wait if response.status_code in (429, 503) else None)
        extended = cast("Any", response)
        extended.cause = cause
        extended.retry_after = wait
        return response

    def _cause_of(self, attempt: Attempt, response: httpx.Response) -> Cause | None:
        last = response.request.url
        redirected = origin_words(last) if attempt.history and origin(last) != origin(attempt.url) else None
        return causes.of_status(response.status_code, response.headers, proxy=attempt.proxy, redirected=redirected)

    def _judge(self, attempt: Attempt, cause: Cause | None, wait: float | None) -> None:
        breaker = attempt.breaker
        if breaker is None:
            return
        if cause is None:
            breaker.succeeded()
        elif _speaks_against(cause, attempt.status, foreign=attempt.foreign):
            self._causes[breaker] = cause
            breaker.failed(answered=cause.answered, retry_after=wait)

    def _counted(self, attempt: Attempt, response: httpx.Response, until: tuple[float, float, str] | None) -> None:
        def fault(error: BaseException) -> UpstreamFault:
            cause = causes.of_error(error, host=attempt.host, proxy=attempt.proxy)
            cast("Any", response).cause = cause
            self.counts.fault(cause)
            self._judge(attempt, cause, None)
            return UpstreamFault(cause)

        response.stream = CountedStream(cast("httpx.SyncByteStream", response.stream), self.counts, fault, until)

    def _all_breakers(self) -> list[Breaker]:
        with self._lock:
            return list(self._probe_urls)

    def _run_probe(self, breaker: Breaker) -> None:
        foreign = breaker is not self.breaker
        success, wait = False, None
        try:
            cause, wait = self._ask(self._probe_urls[breaker], foreign=foreign)
            success = cause is None
            if cause is not None:
                self._causes[breaker] = cause
            if not foreign:
                self.counts.probed(cause)
        except Exception:
            threadlog.exception("the upstream of %s can't be probed", self._index)
        finally:
            breaker.end_probe(success=success, retry_after=wait)

    def _ask(self, url: httpx.URL, *, foreign: bool) -> tuple[Cause | None, float | None]:
        """Return why the upstream is down, and the seconds that it asks to wait; None: it is up."""
        attempt = Attempt(url, None, foreign, _PAGE, host=printable(authority(url)))
        try:
            with deadline_in(PROBE_SECONDS, _PAGE):
                response = self._sender.send(attempt, "HEAD", None, True, None, "gzip")
                response.close()
        except ERRORS as error:
            cause = causes.of_error(error, host=attempt.host, proxy=attempt.proxy)
            return (cause if cause.counts else None), None
        found = self._cause_of(attempt, response)
        if found is None or not _speaks_against(found, response.status_code, foreign=foreign):
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
        cause = self.last_cause
        if opened and cause is not None:
            threadlog.warn(
                "upstream of %s is down: %s (%s); it is probed until it answers", self._index, cause.reason, cause.hint
            )
        elif not opened:
            threadlog.warn("upstream of %s answers again", self._index)


def _speaks_against(cause: Cause, status: int | None, *, foreign: bool) -> bool:
    """Return whether the breaker counts a failure; other hosts may well deny one file."""
    if not cause.counts:
        return False
    if cause.kind == "denied":
        return not foreign
    return not (cause.kind == "status" and status is not None and status < 500)


def _shown(url: str) -> str:
    """Return a URL without user, password and query."""
    try:
        return str(without_userinfo(httpx.URL(url)).copy_with(query=None))
    except (httpx.InvalidURL, ValueError):
        return "(not a URL)"
