"""A folder that is searched for exports: an unpacked archive, or a source directory."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from sidecar.core.disk_hints import hint_to_read
from sidecar.exports.members import INDEX_FILE
from sidecar.exports.sources import ImportRefused, Unpacked, shown
from sidecar.storage.inspection import STATE_VERSION, find_state, state_version


class Tree:
    """A tree whose links are never followed, with a cache of its folders. All methods may raise ImportRefused."""

    def __init__(self, unpacked: Unpacked) -> None:
        self.archive = unpacked.source.name
        self.root = unpacked.root
        self._is_folder = {"": True}

    def export_folders(self) -> list[str]:
        """The relative paths of folders with a ``dataindex.json``, except nested and hidden ones."""
        found: list[str] = []
        for folder, folders, names in os.walk(self.root, onerror=self._unreadable):
            if INDEX_FILE in names:
                relative = Path(folder).relative_to(self.root).as_posix()
                found.append("" if relative == "." else relative)
                folders.clear()
            folders[:] = sorted(name for name in folders if not name.startswith("."))
        return found

    def refuse_state(self) -> None:
        """Raise ImportRefused if this is the state of a devpi-server."""
        if (state := find_state(self.root)) is None:
            return
        member = state.relative_to(self.root).as_posix()
        what, export = (
            "a devpi-server state (a serverdir)",
            "export it with the devpi-server that created it (devpi-export)",
        )
        try:
            version = state_version(state)
        except OSError as error:
            self._unreadable(error, member)
        if version.partition(".")[0] == STATE_VERSION:
            reason = f"is {what}, not an export"
            hint = (
                f"to adopt it, unpack it onto the empty volume as uid {os.geteuid()}, with its .nodeinfo in the "
                f"serverdir itself, and remove it here; or {export}, and put the export here"
            )
        else:
            reason = f"is {what} of state version {shown(version)}, not an export"
            hint = f"{export}, and put the export here"
        raise ImportRefused(reason, hint, self.archive, None if member == "." else member)

    def paths(self) -> Iterator[str]:
        """The relative paths of everything that is not a folder."""
        for folder, _, names in os.walk(self.root, onerror=self._unreadable):
            inside = folder.removeprefix(str(self.root)).lstrip("/")
            yield from (posixpath.join(inside, name) for name in names)

    def read(self, path: str, limit: int) -> bytes:
        """Return the content of a file of at most ``limit`` bytes."""
        try:
            if self.size_of(path) is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            with (self.root / path).open("rb") as file:
                raw = file.read(limit + 1)
        except OSError as error:
            self._unreadable(error, path)
        if len(raw) > limit:
            hint = "if you trust the archive, raise SIDECAR_IMPORT_MAX_INDEX_SIZE"
            raise ImportRefused(f"is larger than {limit} bytes", hint, self.archive, path)
        return raw

    def size_of(self, path: str) -> int | None:
        """The bytes of a regular file; None if it does not exist. Refuses links, also to folders, and other files."""
        if not self._has_folder(posixpath.dirname(path)):
            return None
        status = self._status(path)
        if status is None:
            return None
        if not stat.S_ISREG(status.st_mode):
            self._refuse("is not a regular file", path)
        return status.st_size

    def _has_folder(self, path: str) -> bool:
        known = self._is_folder.get(path)
        if known is None:
            status = self._status(path) if self._has_folder(posixpath.dirname(path)) else None
            known = self._is_folder[path] = status is not None and stat.S_ISDIR(status.st_mode)
        return known

    def _status(self, path: str) -> os.stat_result | None:
        try:
            status = (self.root / path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._unreadable(error, path)
        if stat.S_ISLNK(status.st_mode):
            self._refuse("is a link, or is below one", path)
        return status

    def _refuse(self, reason: str, path: str) -> NoReturn:
        hint = "put the file itself there, links are not followed (cp -rL, tar --dereference)"
        raise ImportRefused(reason, hint, self.archive, path)

    def _unreadable(self, error: OSError, path: str | None = None) -> NoReturn:
        hint = hint_to_read(error, "it", "let uid {uid} read it: chmod -R a+rX")
        raise ImportRefused(f"can't be read: {error.strerror}", hint, self.archive, path, retryable=True) from error
