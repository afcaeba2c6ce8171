"""Decompresses the tar stream of an archive, in the formats that this Python supports."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib
import io
import lzma
import zlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn, Protocol

from sidecar.exports import formats, zips
from sidecar.exports.readahead import Readable

_PACKED_CHUNK = 64 * 1024
_XZ_MEMORY = 66 * 2**20  # xz -9 needs 65 MiB; a header may ask for 4 GiB
DAMAGED: tuple[type[Exception], ...] = (zlib.error, lzma.LZMAError)
"""What a decompressor raises, besides OSError without an errno, and EOFError for a truncated stream."""
_zstd: ModuleType | None = None
with contextlib.suppress(ImportError):  # Python 3.14 has it
    _zstd = importlib.import_module("compression.zstd")
    DAMAGED = (*DAMAGED, _zstd.ZstdError)


class _Codec(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Streams:
    """Concatenated compressed streams, as pbzip2 writes them.

    BZ2File and LZMAFile treat a stream with a damaged start as the end; LZMAFile has no memory limit.
    """

    def __init__(self, packed: io.BufferedReader[Any], codec: Callable[[], _Codec]) -> None:
        self._packed = packed
        self._new = codec
        self._codec = codec()

    def read(self, size: int = -1, /) -> bytes:
        while True:
            data = b""
            if self._codec.eof:
                data = self._codec.unused_data.lstrip(b"\0")
                while not data:
                    chunk = self._packed.read(_PACKED_CHUNK)
                    if not chunk:
                        return b""
                    data = chunk.lstrip(b"\0")
                self._codec = self._new()
            elif self._codec.needs_input:
                data = self._packed.read(_PACKED_CHUNK)
                if not data:
                    raise EOFError
            if unpacked := self._codec.decompress(data, size):
                return unpacked


def opened(packed: io.BufferedReader[Any], refuse: Callable[..., NoReturn]) -> Readable:
    """Return the tar stream of an archive; `refuse` is called with a reason and a hint, and raises."""
    match formats.compression(packed.peek(10)[:10]):
        case "bz2":
            return _Streams(packed, bz2.BZ2Decompressor)
        case "gzip":
            return gzip.GzipFile(fileobj=packed)
        case "xz":
            return _Streams(packed, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY))
        case "zstd":
            if _zstd is None:
                refuse("is compressed with zstd, which this Python does not support", "pack it as .tar.gz or .tar.bz2")
            return _Streams(packed, _zstd.ZstdDecompressor)
        case "zip":
            return zips.AsTar(packed, refuse)
    return packed
