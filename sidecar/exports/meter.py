"""Reads an archive: hashes and counts its bytes, and enforces the limits on its unpacked size."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, NoReturn, Self

from sidecar.exports.decompression import DAMAGED, opened
from sidecar.exports.readahead import ReadAhead
from sidecar.exports.sources import Budget, ImportRefused, Limits, Source, Watcher

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 256 * 1024
"""Bytes that are unpacked at a time."""
_CHUNKS_AHEAD = 8
_PACKED_CHUNK = 64 * 1024
PACK_AGAIN = "pack the export again: python3 -m tarfile --create backup.bz2 EXPORT_DIRECTORY"
COPY_AGAIN = "copy it again and compare its checksum with the original's; if they are equal, " + PACK_AGAIN
RAISE_LIMIT = "if you trust the archive, raise "


class Tap(io.RawIOBase):
    """The archive's bytes on disk, counted and hashed while they are read."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.count = 0
        """Bytes."""

    def readable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """Of the archive."""
        return self._file.fileno()

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """As `io.RawIOBase` has it."""
        view = memoryview(buffer)
        size = self._file.readinto(view) or 0
        self.sha256.update(view[:size])
        self.count += size
        return size


class Meter(io.RawIOBase):
    """The unpacked stream, within the limits on ratio and total."""

    def __init__(self, source: Source, tap: Tap, limits: Limits, budget: Budget, watcher: Watcher) -> None:
        self._source = source
        self._tap = tap
        self._limits = limits
        self._watcher = watcher
        self.budget = budget
        self.unpacked = 0
        """Bytes."""
        self.members = 0
        """Files and folders, counted by `unpack`."""
        packed = io.BufferedReader(tap, _PACKED_CHUNK)
        self._stream = ReadAhead(opened(packed, self.refuse), CHUNK, _CHUNKS_AHEAD)

    def __enter__(self) -> Self:
        self._stream.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.__exit__()

    @property
    def archive(self) -> str:
        """The archive's name."""
        return self._source.name

    def refuse(
        self, reason: str, hint: str = PACK_AGAIN, member: str | None = None, *, retryable: bool = False
    ) -> NoReturn:
        """Raise ImportRefused, with the name of the archive."""
        raise ImportRefused(reason, hint, self._source.name, member, retryable=retryable)

    def progress(self) -> None:
        """Report the progress to the watcher."""
        self._watcher.unpacking(self._source.name, self._tap.count, self.members, self.unpacked)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """As `io.RawIOBase` has it. Raises ImportRefused."""
        view = memoryview(buffer)
        try:
            data = self._stream.read(len(view))
        except EOFError:
            self.refuse("is truncated: its compressed stream ends early", COPY_AGAIN)
        except DAMAGED as error:
            if "memory" in str(error).lower():  # "Memory usage limit exceeded", "Frame requires too much memory"
                self.refuse("requires more memory than xz -9 does", "pack it with xz -9 at most, or as .tar.gz")
            self.refuse(f"is damaged: {error}", COPY_AGAIN)
        except OSError as error:  # from the disk with an errno, from the decompressor without
            self.refuse(f"is damaged: {error.strerror or error}", COPY_AGAIN)
        view[: len(data)] = data
        self.charge(len(data))
        self.progress()
        return len(data)

    def charge(self, size: int, member: str | None = None) -> None:
        """Count unpacked bytes, also those of a hard link's file. Raises ImportRefused above a limit."""
        self.unpacked += size
        self.budget.left -= size
        if self.budget.left < 0:
            self.too_much(member)
        ratio = self._limits.ratio
        if self.unpacked > max(self._limits.ratio_floor_bytes, ratio * self._tap.count):
            hint = RAISE_LIMIT + "SIDECAR_IMPORT_MAX_RATIO"
            self.refuse(f"unpacks to more than {ratio} times its size", hint, member)

    def too_much(self, member: str | None = None) -> NoReturn:
        """Raise ImportRefused: the archives unpack to too many bytes."""
        self.refuse(
            "unpacks to more than the available space, all archives together",
            "enlarge the volume of the serverdir, or raise SIDECAR_IMPORT_MAX_TOTAL_SIZE if it is set",
            member,
            retryable=True,
        )
