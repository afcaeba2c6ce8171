"""`sidecar.exports.readahead`: the same bytes and errors in the same places, and no more than the limit in advance."""

from __future__ import annotations

import io
import threading

import pytest

from sidecar.exports.readahead import ReadAhead

PATIENCE = 10.0
"""Seconds after which a wait fails."""


class Source:
    """Returns `pieces`, raises those that are exceptions, and counts the reads."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = list(pieces)
        self.taken = threading.Semaphore(0)

    def read(self, size: int = -1, /) -> bytes:
        self.taken.release()
        piece = self._pieces.pop(0) if self._pieces else b""
        if isinstance(piece, Exception):
            raise piece
        return piece[:size]


@pytest.mark.parametrize("wanted", [1, 3, 7, 1000])
def test_the_bytes_stay_the_same(wanted: int) -> None:
    """For any sizes of pieces and reads."""
    data = bytes(range(256)) * 3
    read = b""
    with ReadAhead(io.BytesIO(data), 100, 2) as stream:
        while piece := stream.read(wanted):
            assert len(piece) <= wanted
            read += piece
        assert stream.read(wanted) == b""  # the end is permanent
    assert read == data


def test_an_error_comes_in_its_place() -> None:
    """The bytes before it come first; and it stays."""
    with ReadAhead(Source(b"one", b"two", EOFError("early"), b"never"), 10, 8) as stream:
        assert [stream.read(10), stream.read(10)] == [b"one", b"two"]
        for _ in range(2):
            with pytest.raises(EOFError, match="early"):
                stream.read(10)


def test_no_more_than_so_many_pieces_ahead() -> None:
    """Two are kept and a third waits in the thread; each read lets one more be read."""
    source = Source(*[b"piece"] * 10)
    with ReadAhead(source, 10, 2) as stream:
        for _ in range(3):
            assert source.taken.acquire(timeout=PATIENCE)
        assert not source.taken.acquire(timeout=0.2)
        stream.read(10)
        assert source.taken.acquire(timeout=PATIENCE)
        assert not source.taken.acquire(timeout=0.2)


def test_leaving_it_ends_the_thread() -> None:
    """Also while it waits for a reader."""
    source = Source(*[b"piece"] * 10)
    before = threading.active_count()
    with ReadAhead(source, 10, 1):
        for _ in range(2):
            assert source.taken.acquire(timeout=PATIENCE)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
