"""The HTTP client of one mirror: all requests to its upstream, and to what it links and redirects to."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, cast

import httpx
from devpi_common.url import URL
from devpi_server.httpclient import FatalResponse

from sidecar.worker.upstream import causes, lookup
from sidecar.worker.upstream.breaker import Breaker
from sidecar.worker.upstream.breakers import PAGE_TIMEOUT, Breakers, cause_of
from sidecar.worker.upstream.causes import Cause, UpstreamFault, printable
from sidecar.worker.upstream.counts import Counts
from sidecar.worker.upstream.origins import authority, without_userinfo
from sidecar.worker.upstream.page_body import Body, text_of
from sidecar.worker.upstream.sending import Attempt, Sender
from sidecar.worker.upstream.streams import ERRORS, CountedStream, async_drain, deadline_in

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
        self.counts = Counts()
        self._breakers = Breakers(index, self._url, self._sender, self.counts)

    @property
    def breaker(self) -> Breaker:
        """The index's own; hosts of files have others."""
        return self._breakers.own

    def probe(self) -> bool:
        """Ask the index's URL by HEAD, whatever the breaker says, and return whether the upstream is up."""
        return self._breakers.probe()

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
        attempt = self._begin(url, PAGE_TIMEOUT)
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
                raise causes.total_timeout(attempt.host, self._page_seconds, PAGE_TIMEOUT) from None
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
        attempt = self._begin(url, PAGE_TIMEOUT)
        if isinstance(attempt, FailedResponse):
            return attempt
        try:
            with deadline_in(self._page_seconds, PAGE_TIMEOUT):
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
        """Get a file: the answer's head; its body is streamed (`iter_raw`), without a limit of size and total time,
        but it may not drip.

        A body that fails raises `UpstreamFault`, after it was counted.
        """
        attempt = self._begin(url, PAGE_TIMEOUT)
        if isinstance(attempt, FailedResponse):
            return attempt
        try:
            with deadline_in(self._page_seconds, PAGE_TIMEOUT):
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
        attempt.breaker = None  # a list that fails says nothing of the pages
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

    def stop_probes(self) -> None:
        """End the probes; requests in flight go on."""
        self._breakers.close()

    def close(self) -> None:
        """Close all connections. Not for the event loop's own thread."""
        self._breakers.close()
        self._sender.close()

    def _begin(self, url: URL | str, setting: str) -> Attempt | FailedResponse:
        text = url.url if isinstance(url, URL) else url
        try:
            target = httpx.URL(text)
        except (httpx.InvalidURL, ValueError):
            cause = Cause("unreadable", "the URL is not valid", "check the mirror's URL and what it links to")
            self.counts.answer(None, 0.0, cause)
            return FailedResponse(_shown(text), cause)
        breaker = self._breakers.of(target)
        next_try = None if breaker is None else breaker.wait()
        if breaker is None or next_try is None:
            return Attempt(target, breaker, breaker is not self.breaker, setting, host=printable(authority(target)))
        return FailedResponse(_shown(text), self._breakers.why_open(breaker), max(1, round(next_try)))

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
        self._breakers.judge(attempt, cause, None)
        wait = None if attempt.breaker is None else attempt.breaker.wait()
        failed = FailedResponse(
            _shown(url.url if isinstance(url, URL) else url), cause, None if wait is None else max(1, round(wait))
        )
        failed.history = list(attempt.history)
        return failed

    def _answered(self, attempt: Attempt, response: httpx.Response) -> httpx.Response:
        """Count an answer, and add `cause` and `retry_after` to it."""
        cause = cause_of(attempt, response)
        wait = None if cause is None else causes.retry_after(response.headers)
        self.counts.answer(response.status_code, time.monotonic() - attempt.began, cause)
        self._breakers.judge(attempt, cause, wait if response.status_code in (429, 503) else None)
        extended = cast("Any", response)
        extended.cause = cause
        extended.retry_after = wait
        return response

    def _counted(self, attempt: Attempt, response: httpx.Response, until: tuple[float, float, str] | None) -> None:
        def fault(error: BaseException) -> UpstreamFault:
            cause = causes.of_error(error, host=attempt.host, proxy=attempt.proxy)
            cast("Any", response).cause = cause
            self.counts.fault(cause)
            self._breakers.judge(attempt, cause, None)
            return UpstreamFault(cause)

        response.stream = CountedStream(cast("httpx.SyncByteStream", response.stream), self.counts, fault, until)


def _shown(url: str) -> str:
    """Return a URL without user, password and query."""
    try:
        return str(without_userinfo(httpx.URL(url)).copy_with(query=None))
    except (httpx.InvalidURL, ValueError):
        return "(not a URL)"
