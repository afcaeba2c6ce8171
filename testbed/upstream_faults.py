"""Wrong answers of an upstream: statuses, redirects, bodies that are cut, endless, slow, compressed or no index."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from aiohttp import web

MOST = 2**30
"""Bytes after which an endless body ends, in case that nobody ends it before."""
_BLOCK = b" " * 2**16
_INFLATED = 2**24
"""Bytes that one block of a gzip bomb inflates to."""
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"
_HTML = "text/html; charset=utf-8"


@dataclass(frozen=True)
class Fault:
    """A wrong answer."""

    status: int = 0
    """Answer with this status."""
    retry_after: str | None = None
    """The header Retry-After of that answer."""
    cut: bool = False
    """Close the connection in the middle of the body."""
    garbage: bool = False
    """200 and the right content type, with a body that is not JSON."""
    hang: bool = False
    """Do not answer until `Upstream.release`."""
    seconds: float = 0.0
    """Answer so much later; `Upstream.release` ends the wait."""
    location: str | None = None
    """Redirect to this URL; empty: to the same one."""
    body: bytes | None = None
    """Instead of the right one."""
    kind: str | None = None
    """The content type instead of the right one."""
    zipped: bool = False
    """Compress the right body with gzip: not a fault."""
    bomb: int = 0
    """A gzip body that inflates to so many bytes, at least."""
    endless: bool = False
    """A body that does not end before `MOST` bytes."""
    drip: float = 0.0
    """Seconds between two bytes of the body."""


HANGS, CUT, GARBAGE = Fault(hang=True), Fault(cut=True), Fault(garbage=True)
LOOP, ENDLESS, DRIPS, ZIPPED = Fault(location=""), Fault(endless=True), Fault(drip=0.5), Fault(zipped=True)
BOMB = Fault(bomb=2**30)
DEEP = Fault(body=b'{"meta": {"api-version": "1.0"}, "name": "x", "files": ' + b"[" * 200_000 + b"]" * 200_000 + b"}")
IMAGE = Fault(body=b"\x89PNG\r\n\x1a\n" + bytes(2000), kind="image/png")
LOGIN_PAGE = Fault(body=b"<!DOCTYPE html><title>Log in</title><form method=post><input name=user></form>", kind=_HTML)
TO_LOGIN_PAGE = Fault(location="/login")


async def answer(
    request: web.Request, body: bytes, kind: str, headers: dict[str, str], fault: Fault, released: asyncio.Event
) -> web.StreamResponse:
    """Answer with the fault; `released` ends a wait."""
    if fault.hang or fault.seconds:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(released.wait(), None if fault.hang else fault.seconds)
        if request.transport is None or request.transport.is_closing():
            return web.Response()  # the client has disconnected
    if fault.location is not None:
        return web.Response(status=fault.status or 302, headers={"Location": fault.location or request.path_qs})
    if fault.status:
        headers = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
        return web.Response(status=fault.status, text="injected fault", headers=headers)
    body = b'{"meta": {"api-ver' if fault.garbage else body if fault.body is None else fault.body
    headers = {**headers, "Content-Type": fault.kind or kind}
    try:
        return await _send(request, body, headers, fault, released)
    except ConnectionError:  # the client has disconnected
        return web.Response()


async def _send(
    request: web.Request, body: bytes, headers: dict[str, str], fault: Fault, released: asyncio.Event
) -> web.StreamResponse:
    if fault.zipped:
        return web.Response(body=gzip.compress(body, 1), headers={**headers, "Content-Encoding": "gzip"})
    if fault.bomb:
        return await stream(request, _bomb(fault.bomb), {**headers, "Content-Encoding": "gzip"})
    if fault.endless:
        return await stream(request, _endless(body, released), headers)
    if fault.drip:
        response = web.StreamResponse(headers={**headers, "Content-Length": str(len(body))})
        await response.prepare(request)
        for each in body:
            await response.write(bytes([each]))
            await asyncio.sleep(fault.drip)
        return response
    if fault.cut or fault.hang:
        response = web.StreamResponse(headers={**headers, "Content-Length": str(len(body) + 1)})
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        assert request.transport is not None
        request.transport.abort()
        return response
    return web.Response(body=body, headers=headers)


async def stream(request: web.Request, parts: Iterator[bytes], headers: dict[str, str]) -> web.StreamResponse:
    """Send a body in parts, without holding it in memory. Raises ConnectionError if the client disconnects."""
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    for part in parts:
        if request.transport is None or request.transport.is_closing():
            raise ConnectionResetError
        await response.write(part)
    return response


def _endless(body: bytes, released: asyncio.Event) -> Iterator[bytes]:
    """Yield the body without its end, then spaces."""
    yield body[:-1]
    for _ in range(MOST // len(_BLOCK)):
        if released.is_set():
            return
        yield _BLOCK


def _bomb(size: int) -> Iterator[bytes]:
    """Yield a gzip stream: JSON whose only string never ends."""
    yield _GZIP_HEADER
    first, again = _deflated()
    yield first
    for _ in range(size // _INFLATED + 1):
        yield again


@cache
def _deflated() -> tuple[bytes, bytes]:
    """Return the start of a deflate stream, and a block of letters that can follow any number of times."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(b'{"meta": {"api-version": "1.0"}, "name": "') + packer.flush(zlib.Z_FULL_FLUSH)
    return first, packer.compress(b"a" * _INFLATED) + packer.flush(zlib.Z_FULL_FLUSH)
