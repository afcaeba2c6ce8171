"""Looks at the serverdir's volume as devpi-server uses it: can it be written to, is the database still that
one, how much is free. Blocks as long as the volume does, so it is called in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path

from sidecar.core.disk_hints import hint
from sidecar.features.health.checks import FAIL, PASS, WARN, Verdict

PROBE = "write-check"
"""The file in `.sidecar/` that is written and removed again."""
_PROBE_CONTENT = bytes(4096)  # a block: a few bytes may find room in an inode although the volume is full
_MAGIC = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class Space:
    """How full the volume is, in bytes."""

    free: int
    """What devpi-server may still take."""
    size: int


@dataclass(frozen=True, slots=True)
class VolumeLook:
    """What one look at the volume came to. No verdict names a path, for anybody may read it."""

    write: Verdict
    disk: Verdict
    space: Space | None
    """None: the volume does not tell."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A serverdir, and which file its database was when watching began."""

    serverdir: Path
    database: tuple[int, int] | None
    """Device and inode; None: there is none (another storage)."""

    @classmethod
    def of(cls, serverdir: Path) -> Volume:
        """The volume as it is now."""
        with contextlib.suppress(OSError):
            return cls(serverdir, _identity(serverdir))
        return cls(serverdir, None)

    def look(self, disk_warn_bytes: int) -> VolumeLook:
        """Write a small file and remove it; look at the database; count free bytes."""
        return VolumeLook(self._try_writing(), *_disk(self.serverdir, disk_warn_bytes))

    def _try_writing(self) -> Verdict:
        try:
            _write_probe(self.serverdir)
        except OSError as error:
            return _failure("can't write to the serverdir", error)
        return Verdict(PASS) if self.database is None else self._look_at_database()

    def _look_at_database(self) -> Verdict:
        try:
            if _identity(self.serverdir) != self.database:
                raise FileNotFoundError
            # devpi-server is another process: closing this descriptor drops none of its POSIX locks
            with (self.serverdir / ".sqlite").open("rb") as file:
                magic = file.read(len(_MAGIC))
        except FileNotFoundError:
            return Verdict(
                FAIL,
                "the database was removed or replaced while devpi-server runs",
                mend="stop, put the right database back, and start again; uploads since are lost",
            )
        except OSError as error:
            return _failure("can't read the database", error)
        if magic != _MAGIC:
            return Verdict(FAIL, "the database is no SQLite database any more", mend="stop, and restore a backup")
        return Verdict(PASS)


def _identity(serverdir: Path) -> tuple[int, int]:
    found = (serverdir / ".sqlite").stat()
    return found.st_dev, found.st_ino


def _write_probe(serverdir: Path) -> None:
    folder = os.open(serverdir / ".sidecar", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with contextlib.suppress(FileNotFoundError):  # left by a look that was killed
            os.unlink(PROBE, dir_fd=folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        probe = os.open(PROBE, flags, 0o600, dir_fd=folder)
        try:
            os.write(probe, _PROBE_CONTENT)
        finally:
            try:
                os.close(probe)  # NFS tells of a full disk here
            finally:
                os.unlink(PROBE, dir_fd=folder)
    finally:
        os.close(folder)


def _disk(serverdir: Path, warn_bytes: int) -> tuple[Verdict, Space | None]:
    try:
        found = os.statvfs(serverdir)
    except OSError as error:
        return Verdict(WARN, f"can't look at the volume: {_words(error)}"), None
    free = found.f_bavail * found.f_frsize
    space = Space(free, found.f_blocks * found.f_frsize)
    if free < warn_bytes:
        reason = f"{free} bytes are free on the serverdir's volume, fewer than {warn_bytes}"
        return Verdict(WARN, reason, free, "bytes", hint(OSError(errno.ENOSPC, ""))), space
    return Verdict(PASS, value=free, unit="bytes"), space


def _failure(what: str, error: OSError) -> Verdict:
    return Verdict(FAIL, f"{what}: {_words(error)}", mend=hint(error))


def _words(error: OSError) -> str:
    """The errno's words, without the path that the error may name."""
    return os.strerror(error.errno).lower() if error.errno else "unknown error"
