"""The file of an upstream's list of projects: a header, and the names, each with a newline, by their normalised form.

A lookup bisects the names themselves: 23 steps for PyPI. So there are no hashes that could collide, and a lookup
returns the name as upstream writes it.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from itertools import islice

from sidecar.worker.project_list.names import normalize

MAGIC = b"devpi-projects 1"
_HEADER = struct.Struct(">16sdIQQ32s")
"""Magic, time of the fetch, length of `about`, number of names, bytes of names, digest of all but the time."""
_TIME = struct.Struct(">d")
_TIME_AT = len(MAGIC)
_ABOUT_BYTES = 2**14
_PIECE = 2**16
_READ = 2**20
_BATCH = 2**12


class ListFile:
    """A complete list. All methods can be called by several threads, also after the file was replaced or removed."""

    def __init__(self, names: mmap.mmap, first: int, count: int, about: dict[str, object]) -> None:
        self._map = names
        self._first = first
        self._count = count
        self._url = str(about["url"])
        etag = about.get("etag")
        self._etag = etag if isinstance(etag, str) else None

    @classmethod
    def open(cls, path: os.PathLike[str]) -> ListFile:
        """Map the file, and verify it. Raises OSError, and ValueError if it is not a complete list."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            content = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        try:
            if len(content) < _HEADER.size:
                raise ValueError("it is shorter than its header")
            magic, at, about_bytes, count, names_bytes, digest = _HEADER.unpack_from(content)
            first = _HEADER.size + about_bytes
            if magic != MAGIC or about_bytes > _ABOUT_BYTES or len(content) != first + names_bytes:
                raise ValueError("it is not a list, or not complete")
            if digest != _digest(content, about_bytes, count, names_bytes) or not math.isfinite(at):
                raise ValueError("its checksum does not match")
            return cls(content, first, count, json.loads(content[_HEADER.size : first]))
        except BaseException:
            content.close()
            raise

    @property
    def url(self) -> str:
        """The upstream's URL."""
        return self._url

    @property
    def etag(self) -> str | None:
        """The ETag of the document."""
        return self._etag

    @property
    def fetched_at(self) -> float:
        """When upstream last confirmed the list (Unix time)."""
        at: float = _TIME.unpack_from(self._map, _TIME_AT)[0]
        return at

    def __len__(self) -> int:
        return self._count

    def __contains__(self, normalized: str) -> bool:
        return self.find(normalized) is not None

    def find(self, normalized: str) -> str | None:
        """Return the upstream's name of the project with this normalised name; None if it has no such project."""
        low, high = self._first, len(self._map)
        while low < high:
            middle = (low + high) // 2
            begin = self._map.rfind(b"\n", low, middle) + 1 or low
            end = self._map.find(b"\n", middle, high)
            name = self._map[begin:end].decode("ascii")
            found = normalize(name)
            if found == normalized:
                return name
            if found < normalized:
                low = end + 1
            else:
                high = begin
        return None

    def __iter__(self) -> Iterator[str]:
        """Return the names as upstream writes them, in the order of their normalised form."""
        rest = b""
        for at in range(self._first, len(self._map), _PIECE):
            *names, rest = (rest + self._map[at : at + _PIECE]).split(b"\n")
            for name in names:
                yield name.decode("ascii")

    def close(self) -> None:
        """Unmap the file; other methods then raise ValueError. Without this, the last reference's end does it."""
        self._map.close()


def write(descriptor: int, about: dict[str, object], fetched_at: float, names: Iterable[str]) -> int:
    """Write a list to an empty file; return the number of names. Raises OSError; ValueError if `about` is too long.

    `names` are valid, sorted, and no project is there twice.
    """
    about_json = json.dumps(about).encode()
    if len(about_json) > _ABOUT_BYTES:
        raise ValueError("the URL and ETag of the list are too long")
    hashed = hashlib.blake2b(digest_size=32)
    count = size = 0
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(bytes(_HEADER.size) + about_json)
        names = iter(names)
        while batch := list(islice(names, _BATCH)):
            lines = ("\n".join(batch) + "\n").encode("ascii")
            hashed.update(lines)
            file.write(lines)
            count += len(batch)
            size += len(lines)
    hashed.update(about_json)
    hashed.update(_lengths(len(about_json), count, size))
    os.pwrite(descriptor, _HEADER.pack(MAGIC, fetched_at, len(about_json), count, size, hashed.digest()), 0)
    return count


def confirm(path: os.PathLike[str], fetched_at: float) -> None:
    """Set the time of the fetch in a list, durably: the upstream has not changed it. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, _TIME.pack(fetched_at), _TIME_AT)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(content: mmap.mmap, about_bytes: int, count: int, names_bytes: int) -> bytes:
    hashed = hashlib.blake2b(digest_size=32)
    first = _HEADER.size + about_bytes
    for at in range(first, first + names_bytes, _READ):
        hashed.update(content[at : min(at + _READ, first + names_bytes)])
    hashed.update(content[_HEADER.size : first])
    hashed.update(_lengths(about_bytes, count, names_bytes))
    return hashed.digest()


def _lengths(about_bytes: int, count: int, names_bytes: int) -> bytes:
    return struct.pack(">IQQ", about_bytes, count, names_bytes)
