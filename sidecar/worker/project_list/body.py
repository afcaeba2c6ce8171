"""The document's text, from a descriptor, in pieces."""

from __future__ import annotations

import codecs
import os
import zlib
from collections.abc import Iterator

from sidecar.worker.project_list.names import NotAList

PIECE = 2**16
"""Bytes that are read, and decompressed, at once."""


def read_line(source: int, limit: int) -> bytes:
    """Return the first line without its end, at most `limit` bytes. Raises NotAList if it does not end."""
    line = bytearray()
    while (byte := os.read(source, 1)) != b"\n":
        if not byte or len(line) == limit:
            raise NotAList("there is no complete line about the list", "cut")
        line += byte
    return bytes(line)


def texts(source: int, *, compressed: bool, max_bytes: int, encoding: str) -> Iterator[str]:
    """Return the document in pieces of at most `PIECE` bytes. Raises NotAList.

    `max_bytes` bounds the decompressed size. An invalid encoding is an error.
    """
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    total = 0
    try:
        for piece in _gunzip(source) if compressed else _read(source):
            total += len(piece)
            if total > max_bytes:
                raise NotAList(f"it has more than {max_bytes} bytes", "too-large")
            if text := decoder.decode(piece):
                yield text
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise NotAList(f"it is not {error.encoding}") from None
    except zlib.error:
        raise NotAList("its gzip stream is invalid") from None


def _read(source: int) -> Iterator[bytes]:
    while piece := os.read(source, PIECE):
        yield piece


def _gunzip(source: int) -> Iterator[bytes]:
    stream = zlib.decompressobj(wbits=31)
    for read in _read(source):
        rest = read
        while rest:
            if stream.eof:
                stream = zlib.decompressobj(wbits=31)  # another member
            if piece := stream.decompress(rest, PIECE):
                yield piece
            rest = stream.unused_data if stream.eof else stream.unconsumed_tail
    if not stream.eof:
        raise NotAList("its gzip stream is cut off", "cut")
