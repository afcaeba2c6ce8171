"""The runtime directory, as the entrypoint writes it: files that must not outlive it, and its address."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sidecar.core import discovery, files
from sidecar.core.errors import OperatorError
from sidecar.core.lifecycle import now

_HINT = "set SIDECAR_RUNTIME_DIR to a folder that this user owns, or to a new name in an existing folder"
_CLOSED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class RuntimeDirRefused(OperatorError):
    """The runtime directory can't be used."""


@dataclass(slots=True)
class RuntimeDir:
    """A folder owned by this user, 0700, locked by this process."""

    path: Path
    _lock: int = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> RuntimeDir:
        """Create the folder if it does not exist (its parent must), check and lock it, remove a killed run's files.

        Raises `RuntimeDirRefused`: a link, another user's, not writable, or in use by another running sidecar.
        """
        try:
            with suppress(FileExistsError):
                path.mkdir(0o700)
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                info = os.fstat(folder)
                if info.st_uid != os.geteuid():
                    raise RuntimeDirRefused(
                        f"the runtime directory belongs to uid {info.st_uid}, this is uid {os.geteuid()}", _HINT
                    )
                if stat.S_IMODE(info.st_mode) != 0o700:
                    os.fchmod(folder, 0o700)
                if stat.S_IMODE(os.fstat(folder).st_mode) & 0o077:
                    raise RuntimeDirRefused("others can access the runtime directory even after chmod 0700", _HINT)
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                lock = os.open("lock", flags, 0o600, dir_fd=folder)
            finally:
                os.close(folder)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                opened = cls(path, lock)
                files.remove_leftovers(path)
                opened.clear()
            except BlockingIOError:
                os.close(lock)
                raise RuntimeDirRefused(
                    "another running sidecar uses the runtime directory", "set SIDECAR_RUNTIME_DIR to another one"
                ) from None
            except BaseException:
                os.close(lock)
                raise
        except OSError as error:
            reason = f"the runtime directory can't be used: {error.strerror}"
            raise RuntimeDirRefused(reason, _hint(path, error)) from error
        return opened

    def write_token(self, token: str) -> None:
        """Write the admin token for `sidecar token`. Raises OSError."""
        files.write_file(self.path / discovery.TOKEN, token.encode() + b"\n", sync=False)

    def write_state(self, host: str, port: int, *, tls: bool = False) -> str:
        """Write the sidecar's URL for clients in this container, and return it. Raises OSError.

        A wildcard `host` becomes the loopback address. With `tls`, these clients use the socket, without TLS.
        """
        if host in {"0.0.0.0", "::"}:  # noqa: S104 - not bound here; `::` accepts IPv4, and many containers lack ::1
            host = "127.0.0.1"
        quoted = f"[{host.replace('%', '%25')}]" if ":" in host else host
        url = f"{'https' if tls else 'http'}://{quoted}:{port}"
        state = {
            "pid": os.getpid(),
            "url": url,
            "token_file": str(self.path / discovery.TOKEN),
            "started": now().isoformat(),
        }
        files.write_file(self.path / discovery.STATE, json.dumps(state).encode() + b"\n", sync=False)
        address = "local" if tls else f"{host} {port}"
        files.write_file(self.path / discovery.ADDRESS, f"{address}\n".encode(), sync=False)
        return url

    def clear(self) -> None:
        """Remove all files: nobody finds this sidecar any more. Raises OSError."""
        for name in (discovery.ADDRESS, discovery.SOCKET, discovery.STATE, discovery.TOKEN, discovery.LOGIN_SECRET):
            (self.path / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove all files and unlock the folder. Raises OSError."""
        self.clear()
        os.close(self._lock)


def _hint(path: Path, error: OSError) -> str:
    """The hint for `error`; a container with a read-only root needs a tmpfs."""
    if error.errno not in _CLOSED:
        return _HINT
    folder = path.parent
    return (
        f"make {folder} writable (docker run: `--tmpfs {folder}`, compose: `tmpfs: [{folder}]`, "
        f"Kubernetes: an emptyDir at {folder}), or set SIDECAR_RUNTIME_DIR to a folder that this user owns"
    )
