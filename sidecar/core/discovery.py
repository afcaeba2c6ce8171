"""Where to find this user's running sidecar: the runtime directory and the names in it.

The settings, the entrypoint and the `sidecar` command share this rule. `sidecar healthcheck` runs every few seconds,
so this module imports only `os` and `stat`, which Python has loaded anyway.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs 4 ms
    from collections.abc import Mapping

STATE = "state.json"
"""JSON: `pid`, `url`, `token_file`, `started`."""
ADDRESS = "address"
"""For readers without a JSON parser: `host port`, the address in `STATE`'s url; with TLS, `local`."""
SOCKET = "http"
"""A Unix socket in this folder on which the sidecar answers plain HTTP if its port has TLS."""
TOKEN = "token"  # noqa: S105 - a file's name
"""The admin token."""
LOGIN_SECRET = "login-secret"  # noqa: S105 - a file's name
"""The copy of the login secret that devpi-server reads."""

_LIMIT = 64 * 1024


class NoSidecar(Exception):
    """The runtime directory shows no running sidecar of this user; the argument is the reason."""


def runtime_dir(environ: Mapping[str, str]) -> str:
    """The path of the runtime directory, whether it exists or not."""
    if given := environ.get("SIDECAR_RUNTIME_DIR", "").strip():
        return given
    return f"{(environ.get('TMPDIR') or '/tmp').rstrip('/')}/devpi-sidecar-{os.getuid()}"  # noqa: S108 - owner is checked


def read(directory: str, name: str) -> str:
    """Return the text of file `name` in the runtime directory.

    Raises `NoSidecar` if it is missing, unreadable, a link, larger than 64 KiB, or if it or the directory belongs to
    another user (root may read anybody's).
    """
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NoSidecar(f"{directory} does not exist") from None
    except OSError as error:
        raise NoSidecar(f"{directory} is not a readable folder of uid {os.geteuid()} ({error.strerror})") from None
    try:
        _check_owner(folder, directory)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=folder)
        try:
            _check_owner(descriptor, f"{directory}/{name}")
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NoSidecar(f"{directory}/{name} is not a regular file")
            data = os.read(descriptor, _LIMIT + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise NoSidecar(f"{directory} has no {name}: the sidecar is not up yet, or has stopped") from None
    except OSError as error:
        raise NoSidecar(f"can't read {directory}/{name} ({error.strerror})") from None
    finally:
        os.close(folder)
    if len(data) > _LIMIT:
        raise NoSidecar(f"{directory}/{name} has more than {_LIMIT} bytes")
    return data.decode("utf-8", "replace")


def address(directory: str) -> tuple[str, int] | None:
    """Host and port of the sidecar; None: use the socket `SOCKET` in the directory. Raises `NoSidecar`."""
    text = read(directory, ADDRESS).strip()
    if text == "local":
        return None
    host, _, port = text.rpartition(" ")
    if not (host and port.isascii() and port.isdigit()):
        raise NoSidecar(f"{directory}/{ADDRESS} is damaged")
    return host, int(port)


def socket_path(folder: int) -> str:
    """The path of `SOCKET` in the directory that is open as `folder`.

    Short, because the address of a Unix socket is limited to 107 bytes.
    """
    return f"/proc/self/fd/{folder}/{SOCKET}"


def _check_owner(descriptor: int, name: str) -> None:
    owner, me = os.fstat(descriptor).st_uid, os.geteuid()
    if me not in (owner, 0):
        raise NoSidecar(f"{name} belongs to uid {owner}, this is uid {me}")
