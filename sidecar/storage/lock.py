"""The lock of a serverdir: on the directory itself, and on a file in it.

The file can be removed (`rm -r .sidecar`), and the next server would create and lock a new one. The directory can't be
removed without the state in it. But some file systems can't lock a directory (NFS requires a descriptor that is open
for writing), and older versions of the sidecar lock only the file. So both are locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from sidecar.core.errors import Exit, ExitCode
from sidecar.storage import layout

PATIENCE = 3.0
"""Seconds to wait for a lock: the kernel may not have released that of a server that was just killed."""


class Lock:
    """The lock of one serverdir, held until its last descriptor is closed, in any process."""

    def __init__(self, serverdir: Path) -> None:
        self._serverdir = serverdir
        self._path = serverdir / layout.OWN / layout.LOCK
        self._folder = -1
        self._file = -1

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors that hold it: of the file and of the directory."""
        return self._file, self._folder

    def take(self) -> None:
        """Lock the existing serverdir. Raises Exit if another server holds it or it can't be locked; OSError.

        While another server holds the directory, nothing in it is created or changed.
        """
        deadline = time.monotonic() + PATIENCE
        with contextlib.ExitStack() as undo:
            self._folder = os.open(self._serverdir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, self._folder)
            with contextlib.suppress(OSError):  # not supported here: only the file's lock counts
                self._wait_for(self._folder, deadline)
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            undo.callback(os.close, self._file)
            try:
                self._wait_for(self._file, deadline)
            except OSError as error:
                raise Exit(
                    ExitCode.LOCKED,
                    f"the file system of {self._serverdir} can't lock files: {error.strerror}",
                    "use a volume whose file system supports locks (NFS: mount it with its lock daemon, or as NFSv4)",
                ) from error
            undo.pop_all()

    def release(self) -> None:
        """Close the descriptors of this process."""
        for descriptor in self.descriptors:
            os.close(descriptor)

    def sign(self, text: str) -> None:
        """Write the holder into the file. Raises OSError."""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text.encode(), 0)

    def lost(self) -> str | None:
        """Why the file's lock may not exclude other servers; None: it does. Blocks as long as the volume does."""
        try:
            found, held = self._path.lstat(), os.fstat(self._file)
        except (FileNotFoundError, NotADirectoryError):
            return "the serverdir's lock file was removed"
        except OSError as error:
            return f"the serverdir's lock file can't be checked: {os.strerror(error.errno or 0).lower()}"
        if (found.st_dev, found.st_ino) != (held.st_dev, held.st_ino):
            return "the serverdir's lock file was replaced by another file"
        return None

    def _wait_for(self, descriptor: int, deadline: float) -> None:
        """Raises Exit if another server holds it beyond the deadline, OSError if it can't be locked."""
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                raise Exit(
                    ExitCode.LOCKED,
                    f"the serverdir {self._serverdir} is in use by another server ({self._holder()})",
                    "stop the other server first, or use another serverdir",
                ) from None

    def _holder(self) -> str:
        """What the holder wrote into the file."""
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                return os.read(descriptor, 200).decode(errors="replace").strip() or "unknown"
            finally:
                os.close(descriptor)
        return "unknown"
