"""Bodies that are streamed: their bytes are counted, their faults become causes, their time may be limited."""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import AsyncIterator, Callable, Iterator

import httpx

from sidecar.worker.upstream import causes
from sidecar.worker.upstream.causes import UpstreamFault
from sidecar.worker.upstream.counts import Counts
from sidecar.worker.upstream.transport import DEADLINE

ERRORS = (OSError, httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, ValueError)
"""What a request may raise that is the upstream's fault, not a defect here. ssl.SSLError is an OSError."""
_DRAINED = 64 * 1024
"""Bytes of an unwanted body that are read, so that the connection can be used again."""
SLOW_SECONDS, SLOW_BYTES = 60.0, 60 * 1024
"""A body is too slow if fewer bytes come in so many seconds of waiting for them: it would hold a thread for ever."""


class CountedStream(httpx.SyncByteStream):
    """A body whose bytes are counted; a fault is counted too, and raised as UpstreamFault. It may not drip."""

    def __init__(
        self,
        inner: httpx.SyncByteStream,
        counts: Counts,
        fault: Callable[[BaseException], UpstreamFault],
        until: tuple[float, float, str] | None,
    ) -> None:
        self._inner = inner
        self._counts = counts
        self._fault = fault
        self._until = until
        self._waited = 0.0
        self._came = 0

    def __iter__(self) -> Iterator[bytes]:
        chunks = iter(self._inner)
        while True:
            began = time.monotonic()
            try:
                chunk = self._next(chunks)
                if chunk is not None:
                    self._judge(time.monotonic() - began, len(chunk))
            except ERRORS as error:
                raise self._fault(error) from error
            if chunk is None:
                return
            self._counts.received(len(chunk))
            yield chunk

    def close(self) -> None:
        """Close the body."""
        self._inner.close()

    def _judge(self, seconds: float, size: int) -> None:
        """Count a piece and the wait for it, not what the client takes. Raises UpstreamFault."""
        self._waited += seconds
        self._came += size
        if self._waited >= SLOW_SECONDS:
            if self._came < SLOW_BYTES:
                raise causes.too_slow("the upstream", self._came, self._waited)
            self._waited, self._came = 0.0, 0

    def _next(self, chunks: Iterator[bytes]) -> bytes | None:
        if self._until is None:
            return next(chunks, None)
        with _until(self._until):
            if time.monotonic() > self._until[0]:
                raise causes.total_timeout("the upstream", *self._until[1:])
            return next(chunks, None)


@contextlib.contextmanager
def _until(deadline: tuple[float, float, str]) -> Iterator[None]:
    token: contextvars.Token[tuple[float, float, str] | None] = DEADLINE.set(deadline)
    try:
        yield
    finally:
        DEADLINE.reset(token)


@contextlib.contextmanager
def deadline_in(seconds: float, setting: str) -> Iterator[None]:
    """Limit the total time of the synchronous requests in the block; `setting` raises the limit."""
    with _until((time.monotonic() + seconds, seconds, setting)):
        yield


def drain(response: httpx.Response) -> None:
    """Read a short body that nobody wants."""
    size = 0
    for chunk in response.iter_raw():
        size += len(chunk)
        if size > _DRAINED:
            return


async def async_drain(response: httpx.Response) -> None:
    """As `drain`."""
    size = 0
    chunks: AsyncIterator[bytes] = response.aiter_raw()
    async for chunk in chunks:
        size += len(chunk)
        if size > _DRAINED:
            return
