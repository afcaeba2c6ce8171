"""Unpacks a hostile archive of /devpi-init.d safely into a tree.

Everything blocks: run it in a process of its own.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

from sidecar.core.disk_hints import hint_to_read, hint_to_write
from sidecar.exports import members
from sidecar.exports.meter import CHUNK, PACK_AGAIN, RAISE_LIMIT, Meter, Tap
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
from sidecar.exports.tar import Member, Tar

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_MORE_LINKS = {errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}  # too many, or none supported here
_DEPTH = 64  # folders; an export needs five, and the folder that was packed


def unpack(
    source: Source, into: Path, limits: Limits, budget: Budget, watcher: Watcher, omissions: Omissions
) -> Unpacked:
    """Unpack an archive into ``into``, which is empty or does not exist; a directory stays where it is.

    Creates files (0600) and folders (0700). Members whose path leads out of ``into`` are left out (``omissions``).
    After the archive, only zeros are allowed as padding.
    Raises ImportRefused; the caller must then delete ``into``.
    """
    try:
        if source.is_directory:
            return _as_it_is(source)
        try:
            into.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ImportRefused(*_unwritable(error), source.name, retryable=True) from error
        with source.path.open("rb", buffering=0) as file:
            tap = Tap(file)
            with Meter(source, tap, limits, budget, watcher) as meter:
                _Unpacking(meter, into, limits, omissions).run()
            return Unpacked(source, into, tap.sha256.hexdigest(), meter.members, meter.unpacked)
    except OSError as error:
        hint = hint_to_read(error, "it", READABLE)
        raise ImportRefused(f"can't be read: {error.strerror}", hint, source.name, retryable=True) from error


def _as_it_is(source: Source) -> Unpacked:
    sha256 = hashlib.sha256()
    index = source.path / "dataindex.json"
    if index.is_file() and not index.is_symlink():
        with index.open("rb") as file:
            while chunk := file.read(CHUNK):
                sha256.update(chunk)
    members = sum(1 for _ in statuses(source.path))
    return Unpacked(source, source.path, sha256.hexdigest(), members, source.bytes)


class _Unpacking:
    """Writes the members of the tar to disk."""

    def __init__(self, meter: Meter, into: Path, limits: Limits, omissions: Omissions) -> None:
        self._meter = meter
        self._omissions = omissions
        self._completed = members.Completed()
        self._tar = Tar(meter)
        self._root = into
        self._limits = limits

    def run(self) -> None:
        for member in self._tar.members():
            self._member(member)
        self._meter.progress()

    def _member(self, member: Member) -> None:
        name, size, is_file, is_link = member.name, member.size, member.is_file, member.is_link
        if not is_file and not is_link and not member.is_folder:
            what, hint = members.refusal(member.kind)
            self._meter.refuse(f"is {what}; only files and folders are unpacked", hint, name)
        parts = self._parts(name, name, is_file or is_link)
        self._count(name)
        if is_file and size > self._limits.member_bytes:
            limit = self._limits.member_bytes
            hint = RAISE_LIMIT + "SIDECAR_IMPORT_MAX_MEMBER_SIZE"
            self._meter.refuse(f"has {size} bytes, more than {limit}", hint, name)
        if is_file and size > self._meter.budget.left + CHUNK:  # up to a chunk is read and charged ahead
            self._meter.too_much(name)
        if not is_file and size:
            what, hint = ("hard link", members.PACK_EACH_FILE) if is_link else ("folder", PACK_AGAIN)
            self._meter.refuse(f"is a {what} with data", hint, name)
        try:
            if members.leads_out(name):
                self._leave_out(name, size)
            elif is_file:
                self._write(name, parts, size)
                self._completed.add(parts)
            elif is_link:
                self._link(name, parts, member.link)
            elif parts:
                self._make_folder(name, parts)
        except OSError as error:
            self._meter.refuse(*_unwritable(error), name, retryable=True)
        self._meter.progress()

    def _parts(self, path: str, member: str, is_file: bool) -> list[str]:
        """The components of a path; raises ImportRefused for one that no file system supports."""
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
            self._meter.refuse(
                "has too long a path: more than 4096 bytes, 255 bytes per part, or 64 parts", member=member
            )
        return parts

    def _leave_out(self, name: str, size: int) -> None:
        """Skip a member whose path leads out; refuse an index, because all other files depend on it."""
        reason = members.leads_out(name) or ""
        if members.is_index(name):
            self._meter.refuse(reason, members.PACK_FROM_INSIDE, name)
        self._omissions.add(reason, members.PACK_FROM_INSIDE, self._meter.archive, name)
        for _ in self._tar.content(size):
            pass

    def _link(self, name: str, parts: list[str], target: str) -> None:
        """Create a hard link to a file that this archive has completed; it is charged like the file."""
        led_to = self._parts(target, name, is_file=True)
        if members.is_index(name) or members.is_index(target):
            self._meter.refuse(f"is a hard link from or to {members.INDEX_FILE}", members.PACK_EACH_FILE, name)
        if members.leads_out(target) or led_to not in self._completed:
            reason = f"is a hard link to {shown(target)}, which is not an earlier file in this archive"
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
            self._meter.refuse("is there twice, or is a file and a folder", members.PACK_NEW, name)
        except OSError as error:
            if error.errno not in _NO_MORE_LINKS:
                raise
            with file.open("rb") as source, os.fdopen(os.open(path, _NEW, 0o600), "wb") as copy:
                shutil.copyfileobj(source, copy, CHUNK)

    def _count(self, name: str) -> None:
        self._meter.members += 1
        if self._meter.members > self._limits.members:
            reason = f"exceeds the limit of {self._limits.members} files and folders"
            self._meter.refuse(reason, RAISE_LIMIT + "SIDECAR_IMPORT_MAX_MEMBERS", name)

    def _write(self, name: str, parts: list[str], size: int) -> None:
        path = self._root.joinpath(*parts)
        try:
            try:
                descriptor = os.open(path, _NEW, 0o600)
            except FileNotFoundError:
                self._make_folder(name, parts[:-1], implied=True)
                descriptor = os.open(path, _NEW, 0o600)
        except (FileExistsError, NotADirectoryError):
            self._meter.refuse("is there twice, or is a file and a folder", members.PACK_NEW, name)
        with os.fdopen(descriptor, "wb") as file:
            for chunk in self._tar.content(size):
                file.write(chunk)

    def _make_folder(self, name: str, parts: list[str], implied: bool = False) -> None:
        path = self._root.joinpath(*parts)
        try:
            try:
                path.mkdir(0o700)
            except FileNotFoundError:
                if len(parts) < 2:  # our own root no longer exists
                    raise
                self._make_folder(name, parts[:-1], implied=True)
                path.mkdir(0o700)
        except (FileExistsError, NotADirectoryError):
            if not path.is_dir():
                self._meter.refuse("is there twice, or is a file and a folder", members.PACK_NEW, name)
            return
        if implied:
            self._count(name)


def _unwritable(error: OSError) -> tuple[str, str]:
    if error.errno == errno.ENOSPC:
        return "the disk is full", "enlarge the serverdir's volume, or free bytes and inodes on it"
    return f"can't be written: {error.strerror}", hint_to_write(error)
