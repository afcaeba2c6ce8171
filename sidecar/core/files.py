"""Files that are complete or absent, even after a crash or a power cut. All functions block: call them in a thread."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import stat
from pathlib import Path

LEFTOVER = ".tmp-"
"""Prefix of the names of unfinished files; reserved for them."""


def write_file(path: Path, data: bytes, mode: int = 0o600, *, sync: bool = True) -> None:
    """Write `data` to `path` by a rename: a reader sees the old content or the new one, never a part.

    The new file belongs to this user. It has mode 0600 while it is written, then exactly `mode`, whatever the umask.
    With `sync`, file and name are on disk when this returns. Raises OSError; `path` is then unchanged, unless the
    fsync of its directory failed.
    """
    unfinished = path.with_name(f"{LEFTOVER}{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fchmod(descriptor, mode)
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        unfinished.rename(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    if sync:
        fsync_dir(path.parent)


def fsync_dir(path: Path) -> None:
    """Make the names in directory `path` durable. Raises OSError.

    File systems that don't support it (CIFS, some FUSE) return EINVAL or ENOTSUP, which is ignored.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def sync_file_system(descriptor: int) -> None:
    """Sync the whole file system of `descriptor`, in one pass instead of one fsync per file.

    Raises OSError if the kernel has lost a write since the descriptor was opened (since Linux 5.8). So open it before
    the first write: the kernel does not report a loss again that it has reported to somebody else (errseq_sample).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(descriptor) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def read_file(path: Path, limit: int, *, follow: bool = False) -> bytes | None:
    """Return the content of the regular file `path`; None if it does not exist.

    Raises OSError, with EFBIG for more than `limit` bytes, ELOOP for a symbolic link (unless `follow`), and EINVAL for
    anything but a regular file (a FIFO does not block this).
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link", str(path)) from None
        if error.errno == errno.ENXIO:  # a socket
            raise OSError(errno.EINVAL, "it is not a regular file", str(path)) from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit} bytes", str(path))
    return data


def remove(path: Path) -> None:
    """Unlink `path` durably, if it exists. Raises OSError."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    fsync_dir(path.parent)


def remove_leftovers(directory: Path) -> None:
    """Remove the leftovers of a killed `write_file` in `directory`, where nobody may write now. Raises OSError."""
    try:
        names = [entry.name for entry in os.scandir(directory) if not entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for name in names:
        if name.startswith(LEFTOVER):
            remove(directory / name)


def make_private(path: Path, *, copy_limit: int | None) -> bool:
    """Set the regular file `path` to mode 0600. Return whether only its owner can read it now.

    Another user's file that is readable through its group (Kubernetes' fsGroup after a change of uid) is replaced by
    this user's own copy, if it has at most `copy_limit` bytes (None: never) and the directory is writable. Never raises
    OSError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            return False
        if stat.S_IMODE(mode) != 0o600:
            os.fchmod(descriptor, 0o600)
        return stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o600  # CIFS accepts a chmod and ignores it
    except PermissionError:
        pass
    except OSError:
        return False
    finally:
        os.close(descriptor)
    try:
        if copy_limit is None or (data := read_file(path, copy_limit)) is None:
            return False
        write_file(path, data)
    except OSError:
        return False
    return True
