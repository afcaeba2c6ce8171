"""The members of a hostile tar stream.

``tarfile`` parses only single headers here: its reader treats a broken header after the first member as the end,
recurses once per extended header, and before 3.11.10 and 3.12.6 takes quadratic time for a PAX header of digits
(CVE-2024-6232).
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from sidecar.exports.members import PACK_HOLES
from sidecar.exports.meter import CHUNK, COPY_AGAIN, Meter
from sidecar.exports.sources import shown

_BLOCK = 512
_EXTENDED_BYTES = 2**20  # of PAX and GNU headers before one member


class Member(NamedTuple):
    """A member, as in its headers."""

    kind: bytes
    """As in `tarfile.TarInfo.type`."""
    name: str
    size: int
    """Bytes of its content."""
    link: str

    @property
    def is_file(self) -> bool:
        """Whether it is a plain file."""
        return self.kind in (tarfile.REGTYPE, tarfile.AREGTYPE)

    @property
    def is_link(self) -> bool:
        """Whether it is a hard link."""
        return self.kind == tarfile.LNKTYPE

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.kind == tarfile.DIRTYPE


class Tar:
    """A tar stream, read once. Errors are raised through its `meter`."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._tar = io.BufferedReader(meter, CHUNK)
        self._is_tar = False

    def members(self) -> Iterator[Member]:
        """Each member in turn; read all of its `content` before the next member. Raises ImportRefused."""
        extended = 0
        name: bytes | None = None
        link: bytes | None = None
        size: int | None = None
        while any(block := self._exactly(_BLOCK)):
            header = self._header(block)
            if header.size < 0:
                self._meter.refuse("has a negative size", member=header.name)
            if header.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, b"L", b"K"):
                extended += _BLOCK + header.size
                if extended > _EXTENDED_BYTES:
                    self._meter.refuse("has extended headers of more than 1 MiB", member=header.name)
                payload = self._exactly(header.size)
                self._exactly(-header.size % _BLOCK)
                if header.type == tarfile.GNUTYPE_LONGNAME:
                    name = payload.partition(b"\0")[0]
                elif header.type == tarfile.GNUTYPE_LONGLINK:
                    link = payload.partition(b"\0")[0]
                else:
                    records = self._pax(payload, header)
                    name = records.get(b"path", name)
                    link = records.get(b"linkpath", link)
                    size = self._decimal(records[b"size"], header) if b"size" in records else size
                continue
            yield Member(
                header.type,
                header.name if name is None else name.decode("utf-8", "surrogateescape"),
                header.size if size is None else size,
                header.linkname if link is None else link.decode("utf-8", "surrogateescape"),
            )
            extended, name, link, size = 0, None, None, None
        if extended:
            self._meter.refuse("ends after an extended header", COPY_AGAIN)
        if any(self._exactly(_BLOCK)):
            self._meter.refuse("is damaged: its end-of-archive marker is incomplete", COPY_AGAIN)
        while rest := self._tar.read(CHUNK):
            if rest.count(0) != len(rest):
                self._meter.refuse("has data after its end-of-archive marker")

    def content(self, size: int) -> Iterator[bytes]:
        """The `size` bytes of the current member; also skips its padding. Raises ImportRefused."""
        left = size
        while left:
            chunk = self._exactly(min(left, CHUNK))
            yield chunk
            left -= len(chunk)
        self._exactly(-size % _BLOCK)

    def _exactly(self, size: int) -> bytes:
        data = self._tar.read(size)
        if len(data) != size:
            if self._is_tar:
                self._meter.refuse("is truncated: its end-of-archive marker is missing", COPY_AGAIN)
            self._meter.refuse("is not a tar archive, compressed or not" if data else "is empty")
        return data

    def _header(self, block: bytes) -> tarfile.TarInfo:
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            if self._is_tar:
                self._meter.refuse(f"is damaged: {error}", COPY_AGAIN)
            self._meter.refuse("is not a tar archive, compressed or not")
        self._is_tar = True
        return header

    def _pax(self, payload: bytes, header: tarfile.TarInfo) -> dict[bytes, bytes]:
        records: dict[bytes, bytes] = {}
        start = 0
        while start < len(payload):
            digits = payload[start : start + 8].partition(b" ")[0]
            end = start + int(digits) if digits.isdigit() else 0
            key, is_there, value = payload[start + len(digits) + 1 : max(end - 1, 0)].partition(b"=")
            if not is_there or payload[end - 1 : end] != b"\n":
                self._meter.refuse("has a malformed PAX header", member=header.name)
            if key.startswith(b"GNU.sparse."):
                self._meter.refuse("is a sparse file", PACK_HOLES, header.name)
            if header.type == tarfile.XGLTYPE and key in (b"path", b"size"):
                self._meter.refuse(f"has a global PAX header that sets the {key.decode()} of all members")
            records[key] = value
            start = end
        return records

    def _decimal(self, digits: bytes, header: tarfile.TarInfo) -> int:
        if not digits.isdigit() or len(digits) > 20:
            self._meter.refuse(f"has the size {shown(digits)} in its PAX header", member=header.name)
        return int(digits)
