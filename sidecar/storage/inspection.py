"""The content of a serverdir: nothing, a whole devpi state, or data that must neither be served nor overwritten."""

from __future__ import annotations

import contextlib
import enum
import errno
import itertools
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecar.core import files
from sidecar.core.disk_hints import hint_to_write
from sidecar.core.errors import Exit, ExitCode
from sidecar.core.terminal import printable
from sidecar.storage import layout, mounts
from sidecar.storage.backends import sqlite
from sidecar.storage.harmless import is_harmless
from sidecar.storage.layout import Layout

STATE_VERSION = "4"
"""devpi-server's database version, the first number of `.serverversion`, since devpi-server 4."""

_PREPARED = frozenset({layout.OWN, ".secret", "devpi.yml", "devpi-server.yml"})
"""Our folder, and what an operator may prepare before the first start: the login secret, devpi's configuration file."""
_DEVPIS = frozenset({".nodeinfo", ".event_serial", ".sqlite", ".sqlite_db", "+files"})
"""Names that only devpi-server and its tools create."""
_DEEP = 3
"""Levels of folders in which a state is searched: other images have it in `server` or `.devpi/server`."""
_LOOKED_AT = 1000
"""Entries that are searched at most."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Error numbers of a full volume."""


class Content(enum.Enum):
    """The content of a serverdir."""

    EMPTY = enum.auto()
    OURS = enum.auto()
    FOREIGN = enum.auto()
    """A whole devpi state without our marker."""


@dataclass(frozen=True, slots=True)
class Storage:
    """devpi's --storage, as far as it can be examined from outside."""

    name: str

    @property
    def database(self) -> str | None:
        """The database file's name in the serverdir; None if the database is elsewhere."""
        return sqlite.DATABASES.get(self.name)


def examine(serverdir: Path, storage: Storage) -> Content:
    """Return the content of the serverdir. Raises Exit if it is neither empty nor a whole devpi state."""
    try:
        return _Examination(serverdir, storage).content()
    except PermissionError as error:
        raise not_writable(serverdir, error) from error


def looks_empty(serverdir: Path) -> bool:
    """Whether the serverdir needs a first state, as far as can be seen without the lock.

    False if that can't be determined: `examine` decides, once the serverdir is locked.
    """
    paths = Layout(serverdir)
    try:
        entries = _content(serverdir)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return not entries and not any(map(os.path.lexists, (paths.marker, paths.installation)))


def _content(serverdir: Path) -> set[str]:
    """The names in a serverdir, except prepared and harmless ones and sockets."""
    entries = [entry for entry in os.scandir(serverdir) if entry.name not in _PREPARED and not is_harmless(entry.name)]
    return {entry.name for entry in entries if not _is_socket(entry)}


def _is_socket(entry: os.DirEntry[str]) -> bool:
    """Whether it is a Unix socket: devpi-server's own may exist before the first state, and after a crash."""
    try:
        return stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


class _Examination:
    def __init__(self, path: Path, storage: Storage) -> None:
        self._path = path
        self._layout = Layout(path)
        self._storage = storage

    def content(self) -> Content:
        """Raises Exit for anything that is neither empty nor a whole devpi state."""
        entries = _content(self._path)
        marked = self._layout.marker.exists()
        if not entries and not marked:
            return Content.EMPTY
        self._access(entries)
        if (tool := read_record(self._path, self._layout.tool)) is not None:
            raise damaged(self._path, f"a {tool.get('tool', 'devpi tool')} that was run on it has not finished")
        if ".serverversion" not in entries:
            raise self._not_devpis(entries, marked)
        self._version()
        if ".nodeinfo" not in entries:
            raise damaged(self._path, ".nodeinfo is missing")
        self._database(entries)
        return Content.OURS if marked else Content.FOREIGN

    def _not_devpis(self, entries: set[str], marked: bool) -> Exit:
        """The error for a serverdir without a devpi-server state."""
        names = ", ".join(printable(name, 100) for name in sorted(entries)[:5]) or "nothing"
        more = f" and {len(entries) - 5} more" if len(entries) > 5 else ""
        what = f".serverversion is missing, it holds {names}{more}"
        if marked or entries & _DEVPIS:  # a state below may be an old copy
            return damaged(self._path, what)
        if (below := find_state(self._path)) is not None:
            return Exit(
                ExitCode.DAMAGED,
                f"the serverdir {self._path} holds no devpi-server state itself, but its folder "
                f"{printable(str(below.relative_to(self._path)), 200)} does",
                f"set DEVPI_SERVERDIR={printable(str(below), 300)} (or --serverdir) to serve that state",
            )
        return Exit(
            ExitCode.DAMAGED,
            f"the serverdir {self._path} is neither empty nor a devpi-server state: {what}",
            f"set DEVPI_SERVERDIR={self._path / 'state'} (or --serverdir) to use a new folder in it, or delete its "
            "content; nothing has been changed",
        )

    def _version(self) -> None:
        try:
            version = state_version(self._path)
        except OSError as error:
            raise damaged(self._path, f".serverversion can't be read ({type(error).__name__})") from error
        if not version:
            raise damaged(self._path, ".serverversion is empty: its initialisation or import was interrupted")
        if version.partition(".")[0] != STATE_VERSION:
            raise Exit(
                ExitCode.DAMAGED,
                f"the serverdir {self._path} has devpi's state version {version!r}, but this devpi-server requires "
                f"{STATE_VERSION!r}",
                "export it with the devpi-server that created it (devpi-export), and import that into an empty "
                "serverdir",
            )

    def _database(self, entries: set[str]) -> None:
        if (name := self._storage.database) is None:
            return
        if name not in entries:
            raise damaged(self._path, f"its database {name} is missing")
        nodeinfo = read_record(self._path, self._path / ".nodeinfo") or {}
        try:
            if nodeinfo.get("role") == "replica":  # a new one has nothing yet, not even tables
                sqlite.roll_back(self._path / name)
                return
            serial = sqlite.last_serial(self._path / name)
        except sqlite.Unreadable as error:
            raise damaged(self._path, f"its database {name} can't be read: {error}") from error
        if serial < 0:
            raise damaged(self._path, "its database is empty (serial -1): its initialisation or import was interrupted")

    def _access(self, entries: set[str]) -> None:
        written = {".serverversion", ".nodeinfo", self._storage.database or ".nodeinfo", "+files", ".event_serial"}
        for name in entries & written:
            if not os.access(self._path / name, os.R_OK | os.W_OK):
                owner = (self._path / name).lstat().st_uid
                raise Exit(
                    ExitCode.NOT_WRITABLE,
                    f"{name} in the serverdir {self._path} belongs to uid {owner} and is not writable "
                    f"for uid {os.geteuid()}",
                    _make_it_ours(self._path, owner),
                )


def find_state(folder: Path) -> Path | None:
    """Return the folder, or the nearest one below it, that looks like a whole state. Links are not followed."""
    left, level = _LOOKED_AT, [folder]
    for deep in range(_DEEP + 1):
        for each in level:
            if _looks_like_state(each):
                return each
        below: list[Path] = []
        for each in level if deep < _DEEP else ():
            with contextlib.suppress(OSError), os.scandir(each) as entries:
                for entry in itertools.islice(entries, left):
                    left -= 1
                    if entry.name != layout.OWN and not is_harmless(entry.name) and entry.is_dir(follow_symlinks=False):
                        below.append(Path(entry.path))
        level = sorted(below)
    return None


def _looks_like_state(folder: Path) -> bool:
    try:
        return all(stat.S_ISREG((folder / name).lstat().st_mode) for name in (".serverversion", ".nodeinfo"))
    except OSError:
        return False


def state_version(folder: Path) -> str:
    """devpi-server's state version from `.serverversion`. Raises OSError."""
    with (folder / ".serverversion").open(errors="replace") as file:
        return file.read(20).strip()


def damaged(serverdir: Path, what: str) -> Exit:
    """The error for a serverdir that must neither be served nor overwritten."""
    return Exit(
        ExitCode.DAMAGED,
        f"the serverdir {serverdir} is damaged or not devpi's: {what}",
        "restore a backup of it, or delete its content (including .sidecar) to start over; nothing has been changed",
    )


def not_writable(serverdir: Path, error: OSError) -> Exit:
    """The error for a serverdir that can't be used."""
    uid, gid = os.geteuid(), os.getegid()
    if error.errno in FULL:
        reason = f"no space is left for the serverdir {serverdir}"
        return Exit(ExitCode.NOT_WRITABLE, reason, hint_to_write(error))
    if error.errno == errno.EROFS:
        reason = f"the serverdir {serverdir} is on a read-only file system"
        return Exit(ExitCode.NOT_WRITABLE, reason, "mount it read-write")
    if error.errno in {errno.EACCES, errno.EPERM}:
        at_fault = [Path(error.filename)] if error.filename else []
        where = next(
            p for p in (*at_fault, serverdir / layout.OWN, serverdir, *serverdir.parents) if os.path.lexists(p)
        )
        owner = where.lstat()
        return Exit(
            ExitCode.NOT_WRITABLE,
            f"the serverdir {serverdir} is not writable for uid {uid}, gid {gid}: {where} belongs to "
            f"uid {owner.st_uid}, gid {owner.st_gid}, mode {owner.st_mode & 0o7777:04o}",
            _make_it_ours(serverdir, owner.st_uid),
        )
    return Exit(
        ExitCode.NOT_WRITABLE, f"the serverdir {serverdir} can't be used: {error.strerror}", hint_to_write(error)
    )


def _make_it_ours(serverdir: Path, owner: int) -> str:
    """The hint for a serverdir of `owner`: commands for the host, because nobody can chown in a container."""
    user, mount = f"{os.geteuid()}:{os.getegid()}", mounts.under(serverdir)
    mounted = mount.place != Path("/") and mount.place == serverdir.resolve()
    if mounted and mount.in_memory:
        return f"mount the tmpfs for this user: `--tmpfs {serverdir}:uid={os.geteuid()},mode=0700`"
    if mounted:
        advice = (
            f"on the host, run `chown -R {user} FOLDER` for the folder that is mounted at {serverdir} "
            "(a named volume: see docs/docker.md; Kubernetes: set securityContext.fsGroup)"
        )
    else:
        advice = (
            f"run `chown -R {user} {serverdir}` as root; in a container, mount a volume there that belongs to {user}"
        )
    return advice if owner == 0 else f"{advice}, or run this as uid {owner}"


def read_record(serverdir: Path, path: Path) -> dict[str, Any] | None:
    """Return a record of ours or devpi's; None if it does not exist. Raises Exit if it is invalid."""
    try:
        content = files.read_file(path, 64 * 1024)
        value = None if content is None else json.loads(content)
    except PermissionError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(serverdir, f"{path.name} can't be read ({type(error).__name__})") from error
    if value is not None and not isinstance(value, dict):
        raise damaged(serverdir, f"{path.name} does not contain a JSON object")
    return value
