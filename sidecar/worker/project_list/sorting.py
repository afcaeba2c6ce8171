"""Sorts names by their normalised form in bounded memory: sorted runs in a file, then a merge.

PyPI's list is sorted, or nearly: then it is one run.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterable, Iterator

from sidecar.worker.project_list.names import normalize, valid

RUN = 2**15
"""Names that are sorted in memory."""
_READ = 2**14


class Sorter:
    """Takes names in any order, returns the valid ones in order."""

    def __init__(self, scratch: int) -> None:
        self._scratch = scratch
        """A descriptor of an empty file."""
        self._waiting: list[str] = []
        self._runs: list[tuple[int, int]] = []
        self._size = 0
        self._last = ""
        self.valid = 0
        self.invalid = 0

    def add(self, names: list[object]) -> None:
        """Add names; those that are not valid are counted. Raises OSError."""
        kept = valid(names)
        self.valid += len(kept)
        self.invalid += len(names) - len(kept)
        if kept:
            normalized = normalize("\n".join(kept)).split("\n")
            self._waiting += map("\0".join, zip(normalized, kept, strict=True))
        if len(self._waiting) >= RUN:
            self._write()

    def sorted(self) -> Iterator[str]:
        """Return one name of each project. Raises OSError."""
        self._write()
        previous = None
        for line in heapq.merge(*(_lines(self._scratch, *run) for run in self._runs)):
            normalized, _, name = line.partition("\0")
            if normalized != previous:
                yield name
                previous = normalized

    def _write(self) -> None:
        if not self._waiting:
            return
        run = sorted(self._waiting)
        self._waiting = []
        begin = self._size
        rest = memoryview(("\n".join(run) + "\n").encode())
        while rest:
            written = os.pwrite(self._scratch, rest, self._size)
            self._size += written
            rest = rest[written:]
        if self._runs and run[0] >= self._last:
            begin = self._runs.pop()[0]
        self._runs.append((begin, self._size))
        self._last = run[-1]


def _lines(file: int, at: int, end: int) -> Iterable[str]:
    rest = ""
    while at < end:
        piece = os.pread(file, min(_READ, end - at), at)
        if not piece:
            raise OSError("the scratch file was cut")
        at += len(piece)
        *lines, rest = (rest + piece.decode()).split("\n")
        yield from lines
