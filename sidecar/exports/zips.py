"""Converts a zip archive to a tar stream, so that one reader checks the names and limits of both.

Python's zipfile keeps a record of each member in memory, however many an archive claims to have. Here the directory at
the end is read entry by entry. Format: PKWARE's APPNOTE.TXT 6.3.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 65535
_CHUNK = 64 * 1024
_BIG = 0xFFFFFFFF
"""In a field whose value is in the ZIP64 extra field."""
_ENCRYPTED, _UTF8 = 0x1, 0x800
_STORED, _DEFLATED = 0, 8
_UNIX = 3
_AGAIN = "pack the export again with zip's defaults, or python3 -m tarfile --create backup.bz2 EXPORT_DIRECTORY"
_COPY = "copy it again and compare its checksum with the original's"


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    mode: int
    """Of Unix; 0 if another system has packed it."""
    offset: int


class AsTar:
    """The tar stream, to be read from start to end; see `readahead.Readable`.

    `packed` is the archive at its start. It is read along with the members, so that its `Tap` counts and hashes all
    bytes. `refuse` is called with reason, hint and member, and raises.
    """

    def __init__(self, packed: io.BufferedReader[Any], refuse: Callable[..., NoReturn]) -> None:
        self._packed = packed
        self._descriptor = packed.fileno()
        self._refuse = refuse
        self._read = 0
        self._pieces = self._stream()

    def read(self, size: int = -1, /) -> bytes:
        """About `size` bytes, also of several small members; none at the end."""
        gathered = bytearray()
        for piece in self._pieces:
            gathered += piece
            if len(gathered) >= size:
                break
        return bytes(gathered)

    # --- the tar --------------------------------------------------------------------------------------------------

    def _stream(self) -> Iterator[bytes]:
        for member in self._members():
            header = tarfile.TarInfo(member.name)
            if stat.S_ISLNK(member.mode):
                header.type = tarfile.SYMTYPE
            elif member.name.endswith("/"):
                header.type = tarfile.DIRTYPE
                header.size = member.size
            else:
                header.size = member.size
            yield header.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
            if header.isreg():
                yield from self._content(member)
                yield bytes(-member.size % tarfile.BLOCKSIZE)
        while self._packed.read(_CHUNK):
            pass
        yield bytes(2 * tarfile.BLOCKSIZE)

    def _content(self, member: _Member) -> Iterator[bytes]:
        """The content of a member, exactly of the size in the directory."""
        if member.flags & _ENCRYPTED:
            self._refuse("is encrypted", "pack the export without a password", member.name)
        if member.method not in (_STORED, _DEFLATED):
            self._refuse(f"is compressed by method {member.method}, which is not supported", _AGAIN, member.name)
        size, crc = 0, 0
        for piece in self._unpacked(member):
            size, crc = size + len(piece), zlib.crc32(piece, crc)
            if size > member.size:
                break
            yield piece
        if size != member.size:
            self._refuse(f"is damaged: its size is not {member.size}, as in the directory", _COPY, member.name)
        if crc != member.crc:
            self._refuse("is damaged: its checksum does not match", _COPY, member.name)

    def _unpacked(self, member: _Member) -> Iterator[bytes]:
        if member.method == _STORED:
            yield from self._raw(member)
            return
        codec = zlib.decompressobj(-zlib.MAX_WBITS)
        for piece in self._raw(member):
            rest = piece
            while rest and not codec.eof:
                yield codec.decompress(rest, 4 * _CHUNK)
                rest = codec.unconsumed_tail
        yield codec.flush()
        if not codec.eof:
            raise EOFError

    def _raw(self, member: _Member) -> Iterator[bytes]:
        local = _LOCAL.unpack(self._exactly(member.offset, _LOCAL.size))
        if local[0] != b"PK\x03\x04":
            self._refuse("is damaged: its header is not where the directory points", _COPY, member.name)
        at = member.offset + _LOCAL.size + local[9] + local[10]
        end = at + member.packed
        while at < end:
            piece = self._exactly(at, min(_CHUNK, end - at))
            at += len(piece)
            self._follow(at)
            yield piece

    def _follow(self, at: int) -> None:
        """Read the archive itself up to this offset."""
        while self._read < at and (piece := self._packed.read(min(_CHUNK, at - self._read))):
            self._read += len(piece)

    # --- the directory at the end ---------------------------------------------------------------------------------

    def _members(self) -> Iterator[_Member]:
        count, at, end = self._directory()
        for _ in range(count):
            fields = _ENTRY.unpack(self._exactly(at, _ENTRY.size))
            if fields[0] != b"PK\x01\x02":
                self._refuse("is damaged: its directory has fewer members than it declares", _COPY)
            made_by, flags, method, crc, packed, size, name_size, extra_size, comment_size = (
                *(fields[index] for index in (1, 3, 4, 7, 8, 9)),
                *fields[10:13],
            )
            at += _ENTRY.size
            raw = self._exactly(at, name_size)
            extra = self._exactly(at + name_size, extra_size)
            at += name_size + extra_size + comment_size
            size, packed, offset = self._big(extra, size, packed, fields[16])
            system = made_by >> 8
            name = _name(raw, flags, extra)
            if system != _UNIX:
                name = name.replace("\\", "/")  # Windows' separator
            if "\0" in name:
                self._refuse("has a NUL in its name", _AGAIN, name)
            mode = fields[15] >> 16 if system == _UNIX else 0
            yield _Member(name, flags, method, crc, packed, size, mode, offset)
        if at != end:
            self._refuse("is damaged: its directory has more members than it declares", _COPY)

    def _directory(self) -> tuple[int, int, int]:
        """The directory's number of members, start and end."""
        total = os.fstat(self._descriptor).st_size
        begin = max(0, total - _LONGEST_COMMENT - _END.size)
        tail = self._exactly(begin, total - begin)
        at = tail.rfind(b"PK\x05\x06", 0, len(tail) - _END.size + 4)
        if at < 0:
            self._refuse("is truncated: the directory at its end is missing", _COPY)
        _, disk, first_disk, _, count, size, offset, _ = _END.unpack_from(tail, at)
        at += begin
        if at >= _LOCATOR.size:
            mark, _, where, _ = _LOCATOR.unpack(self._exactly(at - _LOCATOR.size, _LOCATOR.size))
            if mark == b"PK\x06\x07":
                end = _END_64.unpack(self._exactly(where, _END_64.size))
                if end[0] != b"PK\x06\x06":
                    self._refuse("is damaged: its directory is not where its end record points", _COPY)
                disk, first_disk, count, size, offset = *end[4:6], *end[7:10]
        if disk or first_disk:
            self._refuse("is one part of a split zip archive", "join its parts: zip -s 0 IN.zip --out WHOLE.zip")
        return count, offset, offset + size

    def _big(self, extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
        """The fields, replaced by those of ZIP64 if they are too big for 32 bits."""
        values = [size, packed, offset]
        if _BIG not in values:
            return size, packed, offset
        longer = _extra(extra, 1)
        for index, value in enumerate(values):
            if value == _BIG:
                if len(longer) < 8:
                    self._refuse("is damaged: it lacks a ZIP64 field", _COPY)
                values[index], longer = int.from_bytes(longer[:8], "little"), longer[8:]
        return values[0], values[1], values[2]

    def _exactly(self, at: int, size: int) -> bytes:
        """Raises EOFError if the archive is shorter."""
        if at + size > 2**62:  # more than pread accepts
            raise EOFError
        data = b""
        while len(data) < size:
            piece = os.pread(self._descriptor, size - len(data), at + len(data))
            if not piece:
                raise EOFError
            data += piece
        return data


def _name(raw: bytes, flags: int, extra: bytes) -> str:
    """A member's name: by its flag, by Info-ZIP's extra field, or by the convention of most tools."""
    unicode = _extra(extra, 0x7075)
    if not flags & _UTF8 and unicode[1:5] == zlib.crc32(raw).to_bytes(4, "little"):
        raw = unicode[5:]
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp437")


def _extra(extra: bytes, wanted: int) -> bytes:
    """The extra field with this id; empty if there is none."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<2H", extra)
        if kind == wanted:
            return extra[4 : 4 + size]
        extra = extra[4 + size :]
    return b""
