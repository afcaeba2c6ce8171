"""Reads a stream ahead in a thread: decompression releases the GIL, so it can use another core."""

from __future__ import annotations

import collections
import threading
from typing import Protocol


class Readable(Protocol):
    """A stream that is read from start to end."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; none at the end."""


class ReadAhead:
    """Reads up to `ahead` pieces of `size` bytes in advance; a context manager.

    `read` raises the stream's exceptions.
    """

    def __init__(self, stream: Readable, size: int, ahead: int) -> None:
        self._stream = stream
        self._size = size
        self._ahead = ahead
        self._pieces: collections.deque[bytes | Exception] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)

    def __enter__(self) -> ReadAhead:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._pieces)
            piece = self._pieces[0]
            if isinstance(piece, Exception):
                raise piece
            if len(piece) > size:
                self._pieces[0] = piece[size:]
            elif piece:  # the end stays, for further calls
                self._pieces.popleft()
                self._changed.notify()
            return piece[:size]

    def _run(self) -> None:
        piece: bytes | Exception = b"-"
        while piece and not isinstance(piece, Exception):
            try:
                piece = self._stream.read(self._size)
            except Exception as error:
                piece = error
            with self._changed:
                self._changed.wait_for(lambda: self._closed or len(self._pieces) < self._ahead)
                if self._closed:
                    return
                self._pieces.append(piece)
                self._changed.notify()
