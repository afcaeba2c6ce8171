"""Finds the archives and directories of /devpi-init.d to import, and defines the limits of an import.

`sidecar.exports.unpack` turns them into trees, `sidecar.exports.merge` merges these into one verified export.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from sidecar.core.disk_hints import hint_to_read
from sidecar.core.errors import OperatorError
from sidecar.exports import formats
from sidecar.storage.harmless import is_harmless

MOST_SOURCES = 1000
"""Archives and folders of one import. `/status` lists them all, and a client may request that every second."""
READABLE = "let uid {uid} read it: chmod -R a+rX, a matching runAsUser or fsGroup, :z on the mount under SELinux"
"""The hint for unreadable files."""
_OR_IGNORE = "; or remove it, or set SIDECAR_IGNORE_INIT_FILES=true to start without it"


def shown(value: object) -> str:
    """A value from an archive, quoted, printable, cut to 200 characters: safe for anonymous clients."""
    text = repr(value)
    return text if len(text) <= 200 else text[:199] + "…"


def _printable(name: str | None) -> str | None:
    return None if name is None else shown(name)[1:-1] if not name.isprintable() else name[:200]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of an import."""

    members: int = 1_000_000
    """Files and folders per archive, including folders that only a name implies."""
    member_bytes: int = 8 * 2**30
    """Bytes of one file in an archive."""
    total_bytes: int | None = None
    """Unpacked bytes of all archives together, headers included; None: the target's free space less 10 %."""
    ratio: int = 200
    """Unpacked bytes per compressed byte, for one archive."""
    ratio_floor_bytes: int = 32 * 2**20
    """Unpacked bytes of an archive above which ``ratio`` applies; an xz stream holds back up to 64 MiB."""
    index_bytes: int = 256 * 2**20
    """Bytes of a ``dataindex.json``; a larger one is not read."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that the import has left out because loading it would not be safe."""

    archive: str
    member: str
    """A file's path in the archive or in `dataindex.json`, or a description."""
    reason: str


class ImportRefused(OperatorError):
    """An export can't be imported: where, why, and how to fix it. Contains no path on disk."""

    def __init__(
        self, reason: str, hint: str, archive: str | None = None, member: str | None = None, *, retryable: bool = False
    ) -> None:
        super().__init__(reason[:2000], hint)  # it may quote an export, and must fit into a packet and a page
        self.retryable = retryable
        """It failed for lack of disk space or permission, not because of the content: a retry may succeed."""
        self.archive = _printable(archive)
        self.member = _printable(member)

    def __str__(self) -> str:
        where = ": ".join(name for name in (self.archive, self.member) if name)
        return f"{where}: {super().__str__()}" if where else super().__str__()


class Omissions:
    """Counts what an import leaves out because it is not safe, and names the first entries."""

    MOST_NAMED = 10
    """So many fit into one packet to the sidecar, whatever their names are."""

    def __init__(self, *, strict: bool) -> None:
        """`strict`: refuse the import instead of leaving something out."""
        self._strict = strict
        self.total = 0
        self.first: list[LeftOut] = []

    def add(self, reason: str, hint: str, archive: str, member: str) -> None:
        """Leave something out. Raises ImportRefused if `strict`."""
        if self._strict:
            raise ImportRefused(reason, f"{hint}; or unset SIDECAR_IMPORT_STRICT to leave it out", archive, member)
        self.total += 1
        if len(self.first) < self.MOST_NAMED:
            self.first.append(LeftOut(_printable(archive) or "", _printable(member) or "", reason[:200]))


@dataclass(frozen=True, slots=True)
class Source:
    """A candidate found in the init directory, ``path`` with its links resolved.

    A directory's ``bytes`` are the sum of its files, its ``mtime_ns`` is the newest in it.
    """

    name: str
    path: Path
    is_directory: bool
    bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Found:
    """What the init directory holds, each sorted by name."""

    sources: tuple[Source, ...]
    ignored: tuple[str, ...]
    """Names of entries that are no archives."""
    not_taken: tuple[ImportRefused, ...] = ()
    """Archives, by name or content, that can't be imported, and unreadable files that may be archives."""

    @property
    def passed_over(self) -> tuple[str, ...]:
        """The names of all entries that are no source."""
        return tuple(sorted([*self.ignored, *(each.archive or "" for each in self.not_taken)]))


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A source as a tree, with the archive's digest (of a directory: that of its ``dataindex.json``, or of nothing)."""

    source: Source
    root: Path
    sha256: str
    members: int
    bytes: int


class Watcher(Protocol):
    """Receives the progress, several times per megabyte and at every member; it must throttle itself."""

    def unpacking(self, source: str, compressed_bytes: int, members: int, unpacked_bytes: int) -> None:
        """Receive the totals read, created and unpacked from this source so far."""


@dataclass(slots=True)
class Budget:
    """Bytes that may still be unpacked, for all archives together."""

    left: int

    @classmethod
    def of(cls, limits: Limits, target: Path) -> Budget:
        """The limit, or without one the free space of the file system of ``target`` (which exists) less 10 %."""
        if limits.total_bytes is not None:
            return cls(limits.total_bytes)
        disk = os.statvfs(target)
        return cls(disk.f_bavail * disk.f_frsize * 9 // 10)


def find(init_dir: Path, *, deep: bool = True) -> Found:
    """Return the archives and directories to import; none if ``init_dir`` does not exist or is empty.

    `deep` False: a folder's bytes and time are its own, without its content.
    Hidden names, like the ``..data`` of a ConfigMap, are ignored; links are followed within ``init_dir``.
    Raises ImportRefused for unreadable entries, for an export in ``init_dir`` itself, and if ``init_dir`` is a file.
    """
    sources: list[Source] = []
    ignored: list[str] = []
    not_taken: list[ImportRefused] = []
    name: str | None = None
    try:
        home = init_dir.resolve()
        for name in sorted(entry.name for entry in home.iterdir()):
            if name == "dataindex.json":
                raise ImportRefused(
                    "an export is in the init directory itself", "move it into a folder of its own there", name
                )
            if name.startswith("."):
                continue
            source = _source(home, name, deep)
            if len(sources) == MOST_SOURCES and isinstance(source, Source):
                raise ImportRefused(
                    f"the init directory holds more than {MOST_SOURCES} archives and folders",
                    "put several exports into one folder or archive, each in a folder of its own there",
                )
            if source is None:
                ignored.append(name)
            elif isinstance(source, Source):
                sources.append(source)
            else:
                hint = source.hint.replace("FILE", shown(name)[1:-1]) + _OR_IGNORE
                not_taken.append(ImportRefused(source.reason, hint, name))
    except FileNotFoundError as error:
        if name is None:
            return Found((), ())
        raise ImportRefused("has vanished, or is a dangling link", "mount the file itself", name) from error
    except NotADirectoryError as error:
        raise ImportRefused("the init directory is a file", "mount a folder there, with the archive in it") from error
    except RuntimeError as error:  # before Python 3.13 `resolve` raises it for circular links
        raise ImportRefused("is a link to itself", "mount the file itself", name) from error
    except OSError as error:
        what = "" if name else "the init directory "
        raise ImportRefused(
            f"{what}can't be read: {error.strerror}", hint_to_read(error, "it", READABLE), name
        ) from error
    return Found(tuple(sources), tuple(ignored), tuple(not_taken))


def _source(home: Path, name: str, deep: bool) -> Source | formats.NotTaken | None:
    by_name = formats.judge(name, b"")
    path = home / name
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        path = path.resolve()
        if not path.is_relative_to(home):
            leads_out = formats.NotTaken("is a link that leads out of the init directory", "mount the file itself")
            return leads_out if by_name or _has_content_of_one(path) else None
        status = path.stat()
    if stat.S_ISREG(status.st_mode):
        return _file(name, path, status, by_name)
    if stat.S_ISDIR(status.st_mode):
        return None if is_harmless(name) else _folder(name, path, status, deep)
    not_regular = formats.NotTaken("is named like an archive, but is not a regular file", "mount the file itself")
    return not_regular if by_name else None


def _file(
    name: str, path: Path, status: os.stat_result, by_name: formats.NotTaken | bool
) -> Source | formats.NotTaken | None:
    try:
        with path.open("rb") as file:
            verdict = formats.judge(name, file.read(formats.HEAD))
    except OSError as error:
        what = "" if by_name else ", so it may be an archive"
        return formats.NotTaken(f"can't be read{what}: {error.strerror}", hint_to_read(error, "it", READABLE))
    return Source(name, path, False, status.st_size, status.st_mtime_ns) if verdict is True else verdict or None


def _has_content_of_one(path: Path) -> bool:
    """Whether a file begins like an archive; False if it can't be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return bool(formats.judge("", file.read(formats.HEAD)))
    except OSError:
        return False


def _folder(name: str, path: Path, status: os.stat_result, deep: bool) -> Source | None:
    with os.scandir(path) as entries:
        if next(entries, None) is None:  # Docker creates it for a bind mount whose source is missing
            return None
    size, newest = 0, status.st_mtime_ns
    for each in statuses(path) if deep else ():
        size += each.st_size if stat.S_ISREG(each.st_mode) else 0
        newest = max(newest, each.st_mtime_ns)
    return Source(name, path, True, size, newest)


def statuses(directory: Path) -> Iterator[os.stat_result]:
    """The lstat of everything in a tree. Raises OSError for unreadable folders."""

    def unreadable(error: OSError) -> NoReturn:
        raise error

    for folder, folders, files in os.walk(directory, onerror=unreadable):
        for name in (*folders, *files):
            yield Path(folder, name).lstat()
