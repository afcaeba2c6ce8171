"""The serverdir: its lock, and the atomic installation of a new state. Its files: `layout`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

from sidecar.core import files
from sidecar.core.errors import Exit, ExitCode
from sidecar.core.lifecycle import now
from sidecar.storage import layout
from sidecar.storage.inspection import FULL, Content, Storage, damaged, examine, not_writable, read_record
from sidecar.storage.layout import Layout
from sidecar.storage.lock import Lock

_LAST = ".nodeinfo"
"""devpi-server refuses to start without it, so it is moved last."""
_RECORDS = (layout.ROOT_PASSWORD,)
"""Files that are installed from the staging area into `.sidecar` together with a state."""


class Serverdir(Layout):
    """One serverdir, opened and locked by this process."""

    def __init__(self, path: Path, storage: Storage) -> None:
        super().__init__(path)
        self.storage = storage
        self._installing = threading.Lock()  # a stop may clean up while another thread still installs
        self._recovered: str | None = None
        self.lock = Lock(path)

    # --- open ---------------------------------------------------------------------------------------------------

    def open(self) -> tuple[int, ...]:
        """Create the folder if it is missing, and lock it. Returns the lock's descriptors, which must stay open.

        Raises Exit: not writable, held by another server, or on a file system without locks.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.lock.take()
        except OSError as error:
            raise not_writable(self.path, error) from error
        try:
            try:
                self._probe_write()
            except OSError as error:
                if error.errno not in FULL:
                    raise
                self._throw_away()  # leftovers of an earlier run may fill the volume
                self._probe_write()
            self.lock.sign(_signature())
        except OSError as error:
            self.lock.release()
            raise not_writable(self.path, error) from error
        return self.lock.descriptors

    def sync(self) -> None:
        """Write everything since `open` to disk. Raises OSError if some of it was lost."""
        (descriptor, *_) = self.lock.descriptors  # older than anything that we wrote, as `sync_file_system` requires
        files.sync_file_system(descriptor)

    def _probe_write(self) -> None:
        probe = self.own / layout.WRITE_PROBE
        with contextlib.suppress(FileNotFoundError):
            probe.unlink()
        fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.write(fd, b"\0" * 4096)
            os.fsync(fd)
        finally:
            os.close(fd)
            probe.unlink()

    # --- recover and examine ------------------------------------------------------------------------------------

    def recover(self) -> str | None:
        """Finish an earlier run's installation or remove its leftovers. Returns what was done, for the log, or None.

        Raises Exit if the leftovers are invalid.
        """
        if (intent := read_record(self.path, self.installation)) is not None:
            self._roll_forward(intent)
            self._recovered = "finished the installation of a state that an earlier run had prepared"
        self._throw_away()
        self.empty_tmp()
        done, self._recovered = self._recovered, None
        return done

    def _throw_away(self) -> None:
        """Remove the leftovers of an earlier run. A state that it was installing stays for `recover`."""
        files.remove_leftovers(self.own)
        shutil.rmtree(self.tmp, ignore_errors=True)
        if os.path.lexists(self.installation) or not os.path.lexists(self.staging):
            return
        shutil.rmtree(self.staging)
        installed = os.path.lexists(self.marker)
        what = "the leftovers of an installation" if installed else "an incomplete state"
        self._recovered = f"removed {what} from an earlier run"

    def examine(self) -> Content:
        """Return the content of the serverdir. Raises Exit if it is neither empty nor a whole devpi state."""
        return examine(self.path, self.storage)

    # --- serve and stop -----------------------------------------------------------------------------------------

    def begin_serving(self) -> bool:
        """Record durably that devpi-server may leave partial uploads from now on. Raises OSError.

        Returns whether an earlier run may have left some.
        """
        files.remove_leftovers(self.path)  # of a `.nodeinfo`: only now is this directory known to be ours
        if self.serving.exists():
            return True
        files.write_file(self.serving, b"")
        return False

    def empty_tmp(self) -> None:
        """Delete devpi-server's spooled uploads while it does not run. Raises OSError."""
        shutil.rmtree(self.tmp, ignore_errors=True)
        self.tmp.mkdir(mode=0o700)

    def clear_up(self, *, whole: bool = False) -> None:
        """Clean up at a stop. A state that is being installed stays for `recover`.

        `whole`: devpi-server has left no partial uploads. Raises OSError if its writes can't be synced to disk; the
        next start then searches for partial uploads. If the lock is lost, does nothing: another server may hold it.
        """
        if self.lock.lost() is not None:
            return
        with self._installing:
            if not self.installation.exists():
                self.discard()
        shutil.rmtree(self.tmp, ignore_errors=True)
        if whole:
            self.sync()  # a power cut must not undo an upload's last rename but keep this unlink
            self.serving.unlink(missing_ok=True)

    # --- stage, install, adopt ----------------------------------------------------------------------------------

    def stage(self) -> None:
        """Create an empty staging area."""
        if self.staging.exists():
            shutil.rmtree(self.staging)
        self.staging.mkdir(mode=0o700)
        self.scratch.mkdir(mode=0o700)

    def discard(self) -> None:
        """Delete the staging area."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def install(self, origin: str) -> None:
        """Move the staged state, which is whole and on disk, into the serverdir. May be killed at any instant.

        Once the intent is on disk, `recover` finishes this.
        """
        with self._installing:
            entries = sorted(entry.name for entry in os.scandir(self.staged_state))
            if _LAST not in entries:
                raise Exit(ExitCode.INTERNAL, "the staged state has no .nodeinfo", "report this with the log")
            files.remove(self.tool)  # of a tool that was killed before it created anything
            intent = {"origin": origin, "entries": [name for name in entries if name != _LAST] + [_LAST]}
            files.write_file(self.installation, json.dumps(intent).encode())
            self._roll_forward(intent)

    def _roll_forward(self, intent: dict[str, Any]) -> None:
        if not (isinstance(intent.get("entries"), list) and isinstance(intent.get("origin"), str)):
            raise damaged(self.path, f"{self.installation.name} is invalid")
        for name in _RECORDS:
            _move(self.staging / name, self.own / name)
        files.fsync_dir(self.own)
        for name in intent["entries"]:
            if name == _LAST:
                files.fsync_dir(self.path)
            self._move_entry(name)
        files.fsync_dir(self.path)
        self._mark(intent["origin"])
        files.remove(self.installation)
        self.discard()

    def _move_entry(self, name: str) -> None:
        source, target = self.staged_state / name, self.path / name
        if os.path.lexists(source) and os.path.lexists(target):  # the serverdir was empty at the start of this
            raise damaged(self.path, f"it holds {name}, which the unfinished installation of a state has yet to move")
        _move(source, target)

    def adopt(self) -> None:
        """Mark a whole state that something else created as ours. Its server may have been killed."""
        files.write_file(self.serving, b"")
        self._mark("adopted")
        files.fsync_dir(self.path)  # .sidecar itself: later records in it must last

    def _mark(self, origin: str) -> None:
        marker = {"version": 1, "origin": origin, "since": f"{now():%Y-%m-%dT%H:%M:%SZ}"}
        files.write_file(self.marker, json.dumps(marker).encode())


def _signature() -> str:
    return f"host {os.uname().nodename}, pid {os.getpid()}, since {now():%Y-%m-%dT%H:%M:%SZ}\n"


def _move(source: Path, target: Path) -> None:
    """Rename, unless an earlier, killed run has already done so."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(source, target)  # noqa: PTH104 - fails if the target can't be replaced, as it should
