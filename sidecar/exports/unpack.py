"""An archive of /devpi-init.d → an extracted tree, safely.

An archive is hostile until shown otherwise. ``tarfile`` parses single headers here and no more: its reader
takes a broken header behind the first member for the end, recurses once per extended header, and before
3.11.10 and 3.12.6 needs quadratic time for a PAX header of digits (CVE-2024-6232).
Everything blocks: run it in a process of its own.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import hashlib
import importlib
import io
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn, Protocol, Self

from sidecar.core.disk_hints import hint, hint_to_read
from sidecar.exports import formats, members, zips
from sidecar.exports.readahead import Readable, ReadAhead
from sidecar.exports.sources import (
    READABLE,
    Budget,
    ImportRefused,
    Limits,
    Omissions,
    Source,
    Unpacked,
    Watcher,
    shown,
    statuses,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BLOCK = 512
_CHUNK = 256 * 1024
_CHUNKS_AHEAD = 8
_PACKED_CHUNK = 64 * 1024
_EXTENDED_BYTES = 2**20  # of PAX and GNU headers before one member
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_MORE_LINKS = {errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}  # too many, or none on this file system
_DEPTH = 64  # folders; an export needs five and the one it is packed in
_XZ_MEMORY = 66 * 2**20  # xz -9 needs 65 MiB; a header may ask for 4 GiB
_PACK_AGAIN = "pack the export again: python3 -m tarfile --create backup.bz2 EXPORT_DIRECTORY"
_COPY_AGAIN = "copy it again and compare its checksum with the original's; else " + _PACK_AGAIN
_RAISE_LIMIT = "if the archive is to be trusted, raise "
_DAMAGED: tuple[type[Exception], ...] = (zlib.error, lzma.LZMAError)
_zstd: ModuleType | None = None
with contextlib.suppress(ImportError):  # Python 3.14 has it
    _zstd = importlib.import_module("compression.zstd")
    _DAMAGED = (*_DAMAGED, _zstd.ZstdError)


def unpack(
    source: Source, into: Path, limits: Limits, budget: Budget, watcher: Watcher, omissions: Omissions
) -> Unpacked:
    """Unpacks an archive into ``into``, an empty or absent folder of its own; a directory stays where it is.

    Makes files (0600) and folders (0700). Members whose path leads out of ``into`` are left out (``omissions``).
    Zeros behind the archive are padding, anything else is refused.
    Raises ImportRefused; what was written till then is the caller's to throw away.
    """
    try:
        if source.is_directory:
            return _as_it_is(source)
        try:
            into.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ImportRefused(*_unwritable(error), source.name, circumstances=True) from error
        with source.path.open("rb", buffering=0) as file:
            tap = _Tap(file)
            with _Meter(source, tap, limits, budget, watcher) as meter:
                _Unpacking(meter, into, limits, omissions).run()
            return Unpacked(source, into, tap.sha256.hexdigest(), meter.members, meter.unpacked)
    except OSError as error:
        mend = hint_to_read(error, "it", READABLE)
        raise ImportRefused(f"can't be read: {error.strerror}", mend, source.name, circumstances=True) from error


def _as_it_is(source: Source) -> Unpacked:
    sha256 = hashlib.sha256()
    index = source.path / "dataindex.json"
    if index.is_file() and not index.is_symlink():
        with index.open("rb") as file:
            while chunk := file.read(_CHUNK):
                sha256.update(chunk)
    members = sum(1 for _ in statuses(source.path))
    return Unpacked(source, source.path, sha256.hexdigest(), members, source.bytes)


class _Tap(io.RawIOBase):
    """The archive as it lies on disk, counted and hashed while it is read."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.count = 0

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        size = self._file.readinto(view) or 0
        self.sha256.update(view[:size])
        self.count += size
        return size


class _Codec(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Streams:
    """Compressed streams, one behind another as pbzip2 writes them.

    BZ2File and LZMAFile take a stream with a damaged start for the end; LZMAFile has no limit of memory.
    """

    def __init__(self, packed: io.BufferedReader[_Tap], codec: Callable[[], _Codec]) -> None:
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


class _Meter(io.RawIOBase):
    """The unpacked stream, within the limits on ratio and total."""

    def __init__(self, source: Source, tap: _Tap, limits: Limits, budget: Budget, watcher: Watcher) -> None:
        self._source = source
        self._tap = tap
        self._limits = limits
        self._watcher = watcher
        self.budget = budget
        self.unpacked = 0
        self.members = 0
        packed = io.BufferedReader(tap, _PACKED_CHUNK)
        self._stream = ReadAhead(self._open(packed, packed.peek(10)[:10]), _CHUNK, _CHUNKS_AHEAD)

    def __enter__(self) -> Self:
        self._stream.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.__exit__()

    def _open(self, packed: io.BufferedReader[_Tap], magic: bytes) -> Readable:
        match formats.compression(magic):
            case "bz2":
                return _Streams(packed, bz2.BZ2Decompressor)
            case "gzip":
                return gzip.GzipFile(fileobj=packed)
            case "xz":
                return _Streams(packed, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY))
            case "zstd":
                if _zstd is None:
                    self.refuse("is compressed with zstd, unknown to this Python", "pack it as .tar.gz or .tar.bz2")
                return _Streams(packed, _zstd.ZstdDecompressor)
            case "zip":
                return zips.AsTar(packed, self.refuse)
        return packed

    @property
    def archive(self) -> str:
        return self._source.name

    def refuse(
        self, reason: str, mend: str = _PACK_AGAIN, member: str | None = None, *, circumstances: bool = False
    ) -> NoReturn:
        raise ImportRefused(reason, mend, self._source.name, member, circumstances=circumstances)

    def progress(self) -> None:
        self._watcher.unpacking(self._source.name, self._tap.count, self.members, self.unpacked)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        try:
            data = self._stream.read(len(view))
        except EOFError:
            self.refuse("is truncated: its compressed stream ends too early", _COPY_AGAIN)
        except _DAMAGED as error:
            if "memory" in str(error).lower():  # "Memory usage limit exceeded", "Frame requires too much memory"
                self.refuse("needs more memory to unpack than xz -9 does", "pack it with xz -9 at most, or as .tar.gz")
            self.refuse(f"is damaged: {error}", _COPY_AGAIN)
        except OSError as error:  # with an errno it is the disk's, without one the decompressor's
            self.refuse(f"is damaged: {error.strerror or error}", _COPY_AGAIN)
        view[: len(data)] = data
        self.charge(len(data))
        self.progress()
        return len(data)

    def charge(self, size: int, member: str | None = None) -> None:
        """So many bytes more are unpacked, or stand for a file's second name. Raises ImportRefused above a limit."""
        self.unpacked += size
        self.budget.left -= size
        if self.budget.left < 0:
            self.too_much(member)
        ratio = self._limits.ratio
        if self.unpacked > max(self._limits.ratio_floor_bytes, ratio * self._tap.count):
            mend = _RAISE_LIMIT + "SIDECAR_IMPORT_MAX_RATIO"
            self.refuse(f"unpacks to more than {ratio} times its size", mend, member)

    def too_much(self, member: str | None = None) -> NoReturn:
        self.refuse(
            "unpacks to more than there is room for, all archives together",
            "enlarge the volume of the serverdir, or raise SIDECAR_IMPORT_MAX_TOTAL_SIZE where it is set",
            member,
            circumstances=True,
        )


class _Unpacking:
    """The tar inside, member by member, onto the disk."""

    def __init__(self, meter: _Meter, into: Path, limits: Limits, omissions: Omissions) -> None:
        self._meter = meter
        self._omissions = omissions
        self._completed = members.Completed()
        self._tar = io.BufferedReader(meter, _CHUNK)
        self._root = into
        self._limits = limits
        self._is_tar = False

    def run(self) -> None:
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
            self._member(
                header,
                header.name if name is None else name.decode("utf-8", "surrogateescape"),
                header.size if size is None else size,
                header.linkname if link is None else link.decode("utf-8", "surrogateescape"),
            )
            extended, name, link, size = 0, None, None, None
        if extended:
            self._meter.refuse("ends behind an extended header", _COPY_AGAIN)
        if any(self._exactly(_BLOCK)):
            self._meter.refuse("is damaged: half an end-of-archive marker", _COPY_AGAIN)
        while rest := self._tar.read(_CHUNK):
            if rest.count(0) != len(rest):
                self._meter.refuse("has data behind its end-of-archive marker")
        self._meter.progress()

    def _exactly(self, size: int) -> bytes:
        data = self._tar.read(size)
        if len(data) != size:
            if self._is_tar:
                self._meter.refuse("is truncated: its end-of-archive marker is missing", _COPY_AGAIN)
            self._meter.refuse("is not a tar archive, compressed or not" if data else "is empty")
        return data

    def _header(self, block: bytes) -> tarfile.TarInfo:
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as error:
            if self._is_tar:
                self._meter.refuse(f"is damaged: {error}", _COPY_AGAIN)
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
                self._meter.refuse("is a sparse file", members.PACK_HOLES, header.name)
            if header.type == tarfile.XGLTYPE and key in (b"path", b"size"):
                self._meter.refuse(f"has a global PAX header that sets the {key.decode()} of all members")
            records[key] = value
            start = end
        return records

    def _decimal(self, digits: bytes, header: tarfile.TarInfo) -> int:
        if not digits.isdigit() or len(digits) > 20:
            self._meter.refuse(f"has the size {shown(digits)} in its PAX header", member=header.name)
        return int(digits)

    def _member(self, header: tarfile.TarInfo, name: str, size: int, link: str) -> None:
        is_link = header.type == tarfile.LNKTYPE
        is_file = header.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
        if not is_file and not is_link and not header.isdir():
            what, hint = members.refusal(header.type)
            self._meter.refuse(f"is {what}; only files and folders are unpacked", hint, name)
        parts = self._parts(name, name, is_file or is_link)
        self._count(name)
        if is_file and size > self._limits.member_bytes:
            limit = self._limits.member_bytes
            mend = _RAISE_LIMIT + "SIDECAR_IMPORT_MAX_MEMBER_SIZE"
            self._meter.refuse(f"has {size} bytes, more than {limit}", mend, name)
        if is_file and size > self._meter.budget.left + _CHUNK:  # up to a chunk is read, and paid for, ahead
            self._meter.too_much(name)
        if not is_file and size:
            what, hint = ("hard link", members.PACK_EACH_FILE) if is_link else ("folder", _PACK_AGAIN)
            self._meter.refuse(f"is a {what} with data", hint, name)
        try:
            if members.leads_out(name):
                self._leave_out(name, size)
            elif is_file:
                self._write(name, parts, size)
                self._completed.add(parts)
            elif is_link:
                self._link(name, parts, link)
            elif parts:
                self._make_folder(name, parts)
        except OSError as error:
            self._meter.refuse(*_unwritable(error), name, circumstances=True)
        self._meter.progress()

    def _parts(self, path: str, member: str, is_file: bool) -> list[str]:
        """The components of a path; raises ImportRefused for one that no file system takes."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        try:
            length, longest = len(path.encode()), max((len(part.encode()) for part in parts), default=0)
        except UnicodeEncodeError:
            self._meter.refuse("has a name that isn't UTF-8", member=member)
        if not path or (is_file and (not parts or path.endswith("/"))):
            self._meter.refuse("has an empty name", member=member)
        if "\0" in path:
            self._meter.refuse("has a NUL in its name", member=member)
        if length > 4096 or longest > 255 or len(parts) > _DEPTH:
            self._meter.refuse("has too long a path: over 4096 bytes, 255 a part, or 64 parts", member=member)
        return parts

    def _leave_out(self, name: str, size: int) -> None:
        """Pass over a member whose path leads out; an index is what all else hangs on, so that it is refused."""
        reason = members.leads_out(name) or ""
        if members.is_index(name):
            self._meter.refuse(reason, members.PACK_FROM_INSIDE, name)
        self._omissions.add(reason, members.PACK_FROM_INSIDE, self._meter.archive, name)
        for _ in self._content(size):
            pass

    def _link(self, name: str, parts: list[str], target: str) -> None:
        """A second name for a file that this archive has completed, paid for like the file."""
        led_to = self._parts(target, name, is_file=True)
        if members.is_index(name) or members.is_index(target):
            self._meter.refuse(f"is a hard link from or to {members.INDEX_FILE}", members.PACK_EACH_FILE, name)
        if members.leads_out(target) or led_to not in self._completed:
            reason = f"is a hard link to {shown(target)}, which is no file that comes before it in this archive"
            self._meter.refuse(reason, members.PACK_EACH_FILE, name)
        file, path = self._root.joinpath(*led_to), self._root.joinpath(*parts)
        self._meter.charge(file.lstat().st_size, name)
        try:
            try:
                os.link(file, path, follow_symlinks=False)
            except FileNotFoundError:
                self._make_folder(name, parts[:-1], implied=True)
                os.link(file, path, follow_symlinks=False)
        except (FileExistsError, NotADirectoryError):
            self._meter.refuse("is there twice, or is a file and a folder", members.PACK_ANEW, name)
        except OSError as error:
            if error.errno not in _NO_MORE_LINKS:
                raise
            with file.open("rb") as source, os.fdopen(os.open(path, _NEW, 0o600), "wb") as copy:
                shutil.copyfileobj(source, copy, _CHUNK)

    def _count(self, name: str) -> None:
        self._meter.members += 1
        if self._meter.members > self._limits.members:
            reason = f"is one more than the {self._limits.members} files and folders allowed"
            self._meter.refuse(reason, _RAISE_LIMIT + "SIDECAR_IMPORT_MAX_MEMBERS", name)

    def _content(self, size: int) -> Iterator[bytes]:
        """The bytes of a member, and past its padding."""
        left = size
        while left:
            chunk = self._exactly(min(left, _CHUNK))
            yield chunk
            left -= len(chunk)
        self._exactly(-size % _BLOCK)

    def _write(self, name: str, parts: list[str], size: int) -> None:
        path = self._root.joinpath(*parts)
        try:
            try:
                descriptor = os.open(path, _NEW, 0o600)
            except FileNotFoundError:
                self._make_folder(name, parts[:-1], implied=True)
                descriptor = os.open(path, _NEW, 0o600)
        except (FileExistsError, NotADirectoryError):
            self._meter.refuse("is there twice, or is a file and a folder", members.PACK_ANEW, name)
        with os.fdopen(descriptor, "wb") as file:
            for chunk in self._content(size):
                file.write(chunk)

    def _make_folder(self, name: str, parts: list[str], implied: bool = False) -> None:
        path = self._root.joinpath(*parts)
        try:
            try:
                path.mkdir(0o700)
            except FileNotFoundError:
                if len(parts) < 2:  # our own root is gone
                    raise
                self._make_folder(name, parts[:-1], implied=True)
                path.mkdir(0o700)
        except (FileExistsError, NotADirectoryError):
            if not path.is_dir():
                self._meter.refuse("is there twice, or is a file and a folder", members.PACK_ANEW, name)
            return
        if implied:
            self._count(name)


def _unwritable(error: OSError) -> tuple[str, str]:
    if error.errno == errno.ENOSPC:
        return "the disk is full", "enlarge the serverdir's volume, or free bytes and inodes on it"
    return f"can't be written: {error.strerror}", hint(error)
