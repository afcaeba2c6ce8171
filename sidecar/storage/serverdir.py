"""The serverdir: who holds it, and how a new state gets into it, whole or not at all. Its files: `layout`."""

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
"""What is installed from the staging area into `.sidecar` together with a state."""


class Serverdir(Layout):
    """One serverdir, opened and locked by this process."""

    def __init__(self, path: Path, storage: Storage) -> None:
        super().__init__(path)
        self.storage = storage
        self._installing = threading.Lock()  # a stop may clear up while another thread still installs
        self._recovered: str | None = None
        self.lock = Lock(path)

    # --- open ---------------------------------------------------------------------------------------------------

    def open(self) -> tuple[int, ...]:
        """Make the folder where it is missing, and lock it. Returns the lock's descriptors, which must stay open.

        Raises Exit: not writable, held by another server, or on a file system that can't lock.
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
                self._throw_away()  # what an earlier run left half-made may be what fills the volume
                self._probe_write()
            self.lock.sign(_signature())
        except OSError as error:
            self.lock.release()
            raise not_writable(self.path, error) from error
        return self.lock.descriptors

    def sync(self) -> None:
        """Bring all that was written since `open` to disk. Raises OSError where some of it was lost."""
        (descriptor, *_) = self.lock.descriptors  # as old as our hold on the directory, and so as whatever we wrote
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
        """Finish or throw away what an earlier run left. Returns what was done, for the log; None: nothing.

        Raises Exit where the leftovers can't be understood.
        """
        if (intent := read_record(self.path, self.installation)) is not None:
            self._roll_forward(intent)
            self._recovered = "finished the installation of a state that an earlier run had prepared"
        self._throw_away()
        self.empty_tmp()
        done, self._recovered = self._recovered, None
        return done

    def _throw_away(self) -> None:
        """Clear away what an earlier run left half-made. What it was installing stays for `recover`."""
        files.remove_leftovers(self.own)
        shutil.rmtree(self.tmp, ignore_errors=True)
        if os.path.lexists(self.installation) or not os.path.lexists(self.staging):
            return
        shutil.rmtree(self.staging)
        installed = os.path.lexists(self.marker)
        what = "what the installation of a state had left" if installed else "a half-made state"
        self._recovered = f"threw away {what} in an earlier run"

    def examine(self) -> Content:
        """What the serverdir holds. Raises Exit for anything that is neither empty nor a whole devpi state."""
        return examine(self.path, self.storage)

    # --- serve and stop -----------------------------------------------------------------------------------------

    def begin_serving(self) -> bool:
        """Note, durably, that devpi-server may leave uploads half-made from now on. Raises OSError.

        Returns whether an earlier one may have left some.
        """
        files.remove_leftovers(self.path)  # of a `.nodeinfo`: only now is it sure that this directory is ours
        if self.serving.exists():
            return True
        files.write_file(self.serving, b"")
        return False

    def empty_tmp(self) -> None:
        """Throw away what devpi-server has spooled; none may run. Raises OSError."""
        shutil.rmtree(self.tmp, ignore_errors=True)
        self.tmp.mkdir(mode=0o700)

    def clear_up(self, *, whole: bool = False) -> None:
        """Leave nothing half-made behind, at a stop. What is being installed stays for `recover`.

        `whole`: nor has devpi-server left any upload half-made. Raises OSError where what it wrote can't be brought to
        disk; then the next start looks for such uploads. If the lock is lost, nothing is touched: it may be another
        server's by now.
        """
        if self.lock.lost() is not None:
            return
        with self._installing:
            if not self.installation.exists():
                self.discard()
        shutil.rmtree(self.tmp, ignore_errors=True)
        if whole:
            self.sync()  # a power cut may not undo an upload's last rename, but not this unlink
            self.serving.unlink(missing_ok=True)

    # --- stage, install, adopt ----------------------------------------------------------------------------------

    def stage(self) -> None:
        """Make an empty staging area."""
        if self.staging.exists():
            shutil.rmtree(self.staging)
        self.staging.mkdir(mode=0o700)
        self.scratch.mkdir(mode=0o700)

    def discard(self) -> None:
        """Throw the staging area away."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def install(self, origin: str) -> None:
        """Make the staged state, which is whole and on disk, the serverdir's. Can be killed at any instant.

        Once the intent is on disk, `recover` finishes what is left of this.
        """
        with self._installing:
            self._install(origin)

    def _install(self, origin: str) -> None:
        entries = sorted(entry.name for entry in os.scandir(self.staged_state))
        if _LAST not in entries:
            raise Exit(ExitCode.INTERNAL, "the staged state has no .nodeinfo", "tell us, with the log")
        files.remove(self.tool)  # of a tool that was killed before it made anything
        intent = {"origin": origin, "entries": [name for name in entries if name != _LAST] + [_LAST]}
        files.write_file(self.installation, json.dumps(intent).encode())
        self._roll_forward(intent)

    def _roll_forward(self, intent: dict[str, Any]) -> None:
        if not (isinstance(intent.get("entries"), list) and isinstance(intent.get("origin"), str)):
            raise damaged(self.path, f"{self.installation.name} is not what was written")
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
        if os.path.lexists(source) and os.path.lexists(target):  # nothing was there when this was begun
            raise damaged(self.path, f"{name} is in it, though the installation of a state has not come to that yet")
        _move(source, target)

    def adopt(self) -> None:
        """Make a whole state of somebody else's making ours. Its server may have been killed."""
        files.write_file(self.serving, b"")
        self._mark("adopted")
        files.fsync_dir(self.path)  # .sidecar itself: what is recorded in it from now on must last

    def _mark(self, origin: str) -> None:
        marker = {"version": 1, "origin": origin, "since": f"{now():%Y-%m-%dT%H:%M:%SZ}"}
        files.write_file(self.marker, json.dumps(marker).encode())


def _signature() -> str:
    return f"host {os.uname().nodename}, pid {os.getpid()}, since {now():%Y-%m-%dT%H:%M:%SZ}\n"


def _move(source: Path, target: Path) -> None:
    """Rename; a source that is gone was moved by an earlier, killed run."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(source, target)  # noqa: PTH104 - refuses what can't be replaced, as it should
