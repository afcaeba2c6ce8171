"""Bodies of answers, within bounds: a compressed one must not grow in memory beyond the limit."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Iterator

import httpx

from sidecar.worker.upstream.causes import Cause, UpstreamFault, too_large

_STEP = 256 * 1024
"""Bytes that are decompressed at a time."""
_GZIP = zlib.MAX_WBITS | 16


class Body:
    """Collects one body, decompressed, up to a limit. Raises UpstreamFault (`too-large`, `unreadable`, `cut`)."""

    def __init__(self, response: httpx.Response, host: str, limit: int, setting: str) -> None:
        """`limit`: bytes, also of the body as received; `setting` is what raises it."""
        self._host = host
        self._limit = limit
        self._setting = setting
        self._data = bytearray()
        self._received = 0
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "", "gzip", "x-gzip"):
            raise self._unreadable(f"{host} used a content encoding that was not asked for")
        self._gzip = encoding in ("gzip", "x-gzip")
        self._decoder = zlib.decompressobj(_GZIP) if self._gzip else None
        length = response.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > limit:
            raise too_large(host, limit, setting)

    def feed(self, chunk: bytes) -> Iterator[None]:
        """Add a chunk as received; yields after each step, so that an event loop can do other work."""
        self._received += len(chunk)
        if self._received > self._limit:
            raise too_large(self._host, self._limit, self._setting)
        if not self._gzip:
            self._add(chunk)
            return
        while chunk:
            if self._decoder is None or self._decoder.eof:
                self._decoder = zlib.decompressobj(_GZIP)
            try:
                self._add(self._decoder.decompress(chunk, _STEP))
            except zlib.error:
                raise self._unreadable(f"{self._host} sent a body that is not valid gzip") from None
            chunk = self._decoder.unconsumed_tail or self._decoder.unused_data
            if chunk:
                yield

    def end(self) -> bytearray:
        """Return the whole body."""
        while self._gzip and self._decoder is not None and not self._decoder.eof and self._received:
            piece = self._decoder.decompress(b"", _STEP)
            if not piece:
                reason = f"{self._host} closed the connection before its answer was complete"
                raise UpstreamFault(Cause("cut", reason, "check the upstream, and proxies before it"))
            self._add(piece)
        return self._data

    def _add(self, piece: bytes) -> None:
        if len(self._data) + len(piece) > self._limit:
            raise too_large(self._host, self._limit, self._setting)
        self._data += piece

    def _unreadable(self, reason: str) -> UpstreamFault:
        return UpstreamFault(Cause("unreadable", reason, "check what is at the mirror's URL, and proxies before it"))


def text_of(response: httpx.Response, body: bytearray) -> str:
    """Decode a page: by its charset if that is known, else as UTF-8; what is invalid is replaced."""
    charset = response.charset_encoding or "utf-8"
    try:
        name = codecs.lookup(charset).name
        if name in ("utf-8", "ascii", "iso8859-1", "iso8859-15", "cp1252", "utf-16", "utf-16-le", "utf-16-be"):
            return body.decode(name, "replace")
    except LookupError:
        pass
    return body.decode("utf-8", "replace")
