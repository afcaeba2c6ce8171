"""The serverdir: what is in it, who holds it, and how a new state gets into it, whole or not at all.

SERVERDIR/                 devpi-server's own files, and
    .sidecar/              ours, 0700
        lock               held (flock) by the sidecar and by its devpi-server
        marker.json        the state beside it is whole, and ours
        staging/           a state in the making: thrown away, unless
        promotion.json     says that it is whole; then what is left of it is moved out
        serving            devpi-server may have left uploads half-made; a clean stop removes it
        tmp/               where devpi-server spools uploads
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import json
import os
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecar import durable
from sidecar.exits import Exit, ExitCode
from sidecar.lifecycle import now

STATE_VERSION = "4"
"""devpi-server's database version, the first number of `.serverversion`, since devpi-server 4."""

_NOT_CONTENT = frozenset({"lost+found", ".snapshot", ".sidecar"})
_LAST = ".nodeinfo"
"""devpi-server refuses to start without it, so it is moved last."""
_RECORDS = ("root-password.json",)
"""What is promoted from the staging area into `.sidecar` together with a state."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_LOCK_PATIENCE = 3.0
"""Seconds to wait for a lock: a server that was just killed may not have been cleared away yet."""


class Content(enum.Enum):
    """What a serverdir holds."""

    EMPTY = enum.auto()
    OURS = enum.auto()
    FOREIGN = enum.auto()
    """A whole devpi state without our marker."""


@dataclass(frozen=True, slots=True)
class Storage:
    """What of devpi's --storage can be looked at from outside."""

    name: str

    @property
    def database(self) -> str | None:
        """The database file's name in the serverdir; None where the database is elsewhere."""
        return {"sqlite": ".sqlite", "sqlite_db_files": ".sqlite_db"}.get(self.name)


class Serverdir:
    """One serverdir, opened and locked by this process."""

    def __init__(self, path: Path, storage: Storage) -> None:
        self.path = path
        self.storage = storage
        self.own = path / ".sidecar"
        self.staging = self.own / "staging"
        self.staged_state = self.staging / "state"
        self.staged_record = self.staging / "root-password.json"
        self.scratch = self.staging / "unpacked"
        self.tmp = self.own / "tmp"
        self._intent = self.own / "promotion.json"
        self._marker = self.own / "marker.json"
        self._serving = self.own / "serving"
        self._promoting = threading.Lock()  # a stop may clear up while another thread still promotes
        self._recovered: str | None = None
        self._lock_fd = -1

    # --- open ---------------------------------------------------------------------------------------------------

    def open(self) -> int:
        """Make the folder where it is missing, and lock it. Returns the lock's descriptor, which must stay open.

        Raises Exit: not writable, held by another server, or on a file system that can't lock.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.own.mkdir(mode=0o700, exist_ok=True)
            fd = os.open(self.own / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise self._not_writable(error) from error
        self._lock(fd)
        try:
            try:
                self._probe_write()
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                self._throw_away()  # what an earlier run left half-made may be what fills the volume
                self._probe_write()
            os.ftruncate(fd, 0)
            os.pwrite(fd, _signature(), 0)
        except OSError as error:
            os.close(fd)
            raise self._not_writable(error) from error
        self._lock_fd = fd
        return fd

    def sync(self) -> None:
        """Bring all that was written since `open` to disk. Raises OSError where some of it was lost."""
        durable.sync_file_system(self._lock_fd)  # as old as our hold on the directory, and so as whatever we wrote

    def _probe_write(self) -> None:
        probe = self.own / ".tmp-probe"
        with contextlib.suppress(FileNotFoundError):
            probe.unlink()
        fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.write(fd, b"\0" * 4096)
            os.fsync(fd)
        finally:
            os.close(fd)
            probe.unlink()

    def _lock(self, fd: int) -> None:
        deadline = time.monotonic() + _LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                holder = os.read(fd, 200).decode(errors="replace").strip() or "unknown"
                os.close(fd)
                raise Exit(
                    ExitCode.LOCKED,
                    f"the serverdir {self.path} is in use by another server ({holder})",
                    "stop that one first, or give this one a serverdir of its own",
                ) from None
            except OSError as error:
                os.close(fd)
                raise Exit(
                    ExitCode.LOCKED,
                    f"the file system of {self.path} can't lock files: {error.strerror}",
                    "use a volume whose file system can (NFS: mount it with its lock daemon, or as NFSv4)",
                ) from error

    def _not_writable(self, error: OSError) -> Exit:
        uid, gid = os.geteuid(), os.getegid()
        if error.errno in _FULL:
            reason = f"no space is left for the serverdir {self.path}"
            return Exit(ExitCode.NOT_WRITABLE, reason, "free some, or enlarge the volume")
        if error.errno == errno.EROFS:
            reason = f"the serverdir {self.path} is on a read-only file system"
            return Exit(ExitCode.NOT_WRITABLE, reason, "mount it writable")
        if error.errno in {errno.EACCES, errno.EPERM}:
            at_fault = [Path(error.filename)] if error.filename else []
            where = next(p for p in (*at_fault, self.own, self.path, *self.path.parents) if os.path.lexists(p))
            owner = where.lstat()
            return Exit(
                ExitCode.NOT_WRITABLE,
                f"the serverdir {self.path} is not writable for uid {uid}, gid {gid}: {where} belongs to "
                f"uid {owner.st_uid}, gid {owner.st_gid}, mode {owner.st_mode & 0o7777:04o}",
                f"run `chown -R {uid}:{gid} {self.path}` on the volume, or run the container as uid {owner.st_uid}",
            )
        return Exit(
            ExitCode.NOT_WRITABLE,
            f"the serverdir {self.path} can't be used: {error.strerror}",
            "name a folder on a working, writable volume",
        )

    # --- recover and examine ------------------------------------------------------------------------------------

    def recover(self) -> str | None:
        """Finish or throw away what an earlier run left. Returns what was done, for the log; None: nothing.

        Raises Exit where the leftovers can't be understood.
        """
        if (intent := self._read_json(self._intent)) is not None:
            self._roll_forward(intent)
            self._recovered = "finished the promotion of a state that an earlier run had prepared"
        self._throw_away()
        self.tmp.mkdir(mode=0o700)
        done, self._recovered = self._recovered, None
        return done

    def _throw_away(self) -> None:
        """Clear away what an earlier run left half-made. What it was promoting stays for `recover`."""
        durable.remove_leftovers(self.own)
        shutil.rmtree(self.tmp, ignore_errors=True)
        if os.path.lexists(self._intent) or not os.path.lexists(self.staging):
            return
        shutil.rmtree(self.staging)
        promoted = os.path.lexists(self._marker)
        what = "what the promotion of a state had left" if promoted else "a half-made state"
        self._recovered = f"threw away {what} in an earlier run"

    def examine(self) -> Content:
        """What the serverdir holds. Raises Exit for anything that is neither empty nor a whole devpi state."""
        try:
            return self._examine()
        except PermissionError as error:
            raise self._not_writable(error) from error

    def _examine(self) -> Content:
        entries = {entry.name for entry in os.scandir(self.path)} - _NOT_CONTENT
        marked = self._marker.exists()
        if not entries and not marked:
            return Content.EMPTY
        self._examine_access(entries)
        self._examine_version(entries)
        if (tool := self._read_json(self.own / "tool.json")) is not None:
            raise self._damaged(f"a {tool.get('tool', 'devpi tool')} that was run on it has not finished")
        if ".nodeinfo" not in entries:
            raise self._damaged("there is no .nodeinfo" + (", which was there" if marked else " of a devpi-server"))
        self._examine_database(entries)
        return Content.OURS if marked else Content.FOREIGN

    def _examine_version(self, entries: set[str]) -> None:
        if ".serverversion" not in entries:
            names = ", ".join(sorted(entries)[:5]) or "nothing"
            raise self._damaged(f"it is not devpi-server's: it holds {names}, but no .serverversion")
        try:
            version = (self.path / ".serverversion").read_text(errors="replace")[:20].strip()
        except OSError as error:
            raise self._damaged(f".serverversion can't be read ({type(error).__name__})") from error
        if version.partition(".")[0] != STATE_VERSION:
            raise Exit(
                ExitCode.DAMAGED,
                f"the serverdir {self.path} has devpi's state version {version!r}, this devpi-server needs "
                f"{STATE_VERSION!r}",
                "export it with the devpi-server that made it (devpi-export), and import that into an empty serverdir",
            )

    def _examine_database(self, entries: set[str]) -> None:
        if (name := self.storage.database) is None:
            return
        if name not in entries:
            raise self._damaged(f"its database {name} is missing")
        nodeinfo = self._read_json(self.path / ".nodeinfo") or {}
        if nodeinfo.get("role") != "replica" and self._serial(name) < 0:  # a new replica has nothing yet
            raise self._damaged("its database holds nothing (serial -1): its initialisation or import was cut short")

    def _serial(self, name: str) -> int:
        import sqlite3

        try:
            # not `ro`: a commit that was cut short is rolled back by whoever opens the database next, and it must write
            uri = f"{(self.path / name).absolute().as_uri()}?mode=rw"
            with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
                (serial,) = connection.execute("SELECT max(serial) FROM changelog").fetchone()
        except sqlite3.Error as error:
            raise self._damaged(f"its database {name} can't be read: {error}") from error
        return -1 if serial is None else int(serial)

    def _examine_access(self, entries: set[str]) -> None:
        written = {".serverversion", ".nodeinfo", self.storage.database or ".nodeinfo", "+files", ".event_serial"}
        for name in entries & written:
            if not os.access(self.path / name, os.R_OK | os.W_OK):
                owner, uid, gid = (self.path / name).lstat(), os.geteuid(), os.getegid()
                raise Exit(
                    ExitCode.NOT_WRITABLE,
                    f"{name} in the serverdir {self.path} belongs to uid {owner.st_uid}, not writable for uid {uid}",
                    f"run `chown -R {uid}:{gid} {self.path}` on the volume, or run the container as uid {owner.st_uid}",
                )

    def _damaged(self, what: str) -> Exit:
        return Exit(
            ExitCode.DAMAGED,
            f"the serverdir {self.path} is damaged or not devpi's: {what}",
            "restore a backup of it, or empty it (.sidecar too) to begin anew; what it holds has not been changed",
        )

    # --- serve and stop -----------------------------------------------------------------------------------------

    def begin_serving(self) -> bool:
        """Note, durably, that devpi-server may leave uploads half-made from now on. Raises OSError.

        Returns whether an earlier one may have left some.
        """
        durable.remove_leftovers(self.path)  # of a `.nodeinfo`: only now is it sure that this directory is ours
        if self._serving.exists():
            return True
        durable.write_file(self._serving, b"")
        return False

    def clear_up(self, *, whole: bool = False) -> None:
        """Leave nothing half-made behind, at a stop. What is being promoted stays for `recover`.

        `whole`: nor has devpi-server left any upload half-made. Raises OSError where what it wrote can't be brought to
        disk; then the next start looks for such uploads.
        """
        with self._promoting:
            if not self._intent.exists():
                self.discard()
        shutil.rmtree(self.tmp, ignore_errors=True)
        if whole:
            self.sync()  # a power cut may not undo an upload's last rename, but not this unlink
            self._serving.unlink(missing_ok=True)

    # --- stage, promote, adopt ----------------------------------------------------------------------------------

    def stage(self) -> None:
        """Make an empty staging area."""
        if self.staging.exists():
            shutil.rmtree(self.staging)
        self.staging.mkdir(mode=0o700)
        self.scratch.mkdir(mode=0o700)

    def discard(self) -> None:
        """Throw the staging area away."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def promote(self, origin: str) -> None:
        """Make the staged state, which is whole and on disk, the serverdir's. Can be killed at any instant.

        Once the intent is on disk, `recover` finishes what is left of this.
        """
        with self._promoting:
            self._promote(origin)

    def _promote(self, origin: str) -> None:
        entries = sorted(entry.name for entry in os.scandir(self.staged_state))
        if _LAST not in entries:
            raise Exit(ExitCode.INTERNAL, "the staged state has no .nodeinfo", "tell us, with the log")
        durable.remove(self.own / "tool.json")  # of a tool that was killed before it made anything
        intent = {"origin": origin, "entries": [name for name in entries if name != _LAST] + [_LAST]}
        durable.write_file(self._intent, json.dumps(intent).encode())
        self._roll_forward(intent)

    def _roll_forward(self, intent: dict[str, Any]) -> None:
        if not (isinstance(intent.get("entries"), list) and isinstance(intent.get("origin"), str)):
            raise self._damaged(f"{self._intent.name} is not what was written")
        for name in _RECORDS:
            _move(self.staging / name, self.own / name)
        durable.fsync_dir(self.own)
        for name in intent["entries"]:
            if name == _LAST:
                durable.fsync_dir(self.path)
            self._move_entry(name)
        durable.fsync_dir(self.path)
        self._mark(intent["origin"])
        durable.remove(self._intent)
        self.discard()

    def _move_entry(self, name: str) -> None:
        source, target = self.staged_state / name, self.path / name
        if os.path.lexists(source) and os.path.lexists(target):  # nothing was there when this was begun
            raise self._damaged(f"{name} is in it, though the promotion of a state has not come to that yet")
        _move(source, target)

    def adopt(self) -> None:
        """Make a whole state of somebody else's making ours. Its server may have been killed."""
        durable.write_file(self._serving, b"")
        self._mark("adopted")
        durable.fsync_dir(self.path)  # .sidecar itself: what is recorded in it from now on must last

    def _mark(self, origin: str) -> None:
        marker = {"version": 1, "origin": origin, "since": f"{now():%Y-%m-%dT%H:%M:%SZ}"}
        durable.write_file(self._marker, json.dumps(marker).encode())

    def _read_json(self, path: Path) -> dict[str, Any] | None:
        """A record of ours or devpi's; None where it is absent. Raises Exit where it can't be understood."""
        try:
            content = durable.read_file(path, 64 * 1024)
            value = None if content is None else json.loads(content)
        except PermissionError:
            raise
        except (OSError, ValueError, RecursionError) as error:
            raise self._damaged(f"{path.name} can't be read ({type(error).__name__})") from error
        if value is not None and not isinstance(value, dict):
            raise self._damaged(f"{path.name} does not hold an object")
        return value


def _signature() -> bytes:
    return f"host {os.uname().nodename}, pid {os.getpid()}, since {now():%Y-%m-%dT%H:%M:%SZ}\n".encode()


def _move(source: Path, target: Path) -> None:
    """Rename; a source that is gone was moved by an earlier, killed run."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(source, target)  # noqa: PTH104 - refuses what can't be replaced, as it should
