"""`sidecar healthcheck`: does `/readyz` say 200? With a raw socket, for it starts every few seconds."""

from __future__ import annotations

import _socket  # the C part alone: what `socket` adds in Python is a fifth of this command's time
import os
import sys
import time

from sidecar import locate
from sidecar.terminal import printable

TIMEOUT = 3.0
"""Seconds for the whole of it: connecting, asking, reading."""

_REQUEST = b"GET /readyz HTTP/1.0\r\nHost: localhost\r\nAccept: text/plain\r\nConnection: close\r\n\r\n"
_LIMIT = 64 * 1024


def main() -> int:
    """Write a line that says how devpi is, and return 0 if it is ready, else 1."""
    try:
        directory = locate.runtime_dir(os.environ)
        address = locate.address(directory)
    except locate.NoSidecar as error:
        return _say(f"no sidecar here: {error}", 1)
    try:
        status, body = _get(directory, address)
    except TimeoutError:
        return _say(f"the sidecar does not answer within {TIMEOUT:g} s", 1)
    except OSError as error:
        where = "its socket" if address is None else f"{address[0]} port {address[1]}"
        return _say(f"no sidecar answers at {where}: {error.strerror or error}", 1)
    if status == "200":
        return _say("ready", 0)
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    failing = [line.removeprefix("[-]") for line in lines if line.startswith("[-]")]  # Kubernetes' wording
    return _say(f"not ready ({status or 'no HTTP answer'}): {'; '.join(failing or lines)}", 1)


def _say(text: str, code: int) -> int:
    """Write to stdout, where `docker inspect` shows it. Whether somebody reads it doesn't matter: the code
    does.
    """
    try:
        sys.stdout.write(printable(text, 1000).encode("ascii", "backslashreplace").decode() + "\n")
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python's own flush at exit would end with code 120
    return code


def _connect(directory: str, address: tuple[str, int] | None) -> _socket.socket:
    """Raises OSError, TimeoutError."""
    if address is None:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return _connected(_socket.AF_UNIX, locate.socket_path(folder))
        finally:
            os.close(folder)
    # As bytes: for text, getaddrinfo first imports the idna codec, 8 ms.
    family, _, _, _, target = _socket.getaddrinfo(address[0].encode(), address[1], type=_socket.SOCK_STREAM)[0]
    return _connected(family, target)


def _connected(family: int, target: str | tuple[str | int | bytes, ...]) -> _socket.socket:
    connection = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        connection.settimeout(TIMEOUT)
        connection.connect(target)
    except BaseException:
        connection.close()
        raise
    return connection


def _get(directory: str, address: tuple[str, int] | None) -> tuple[str, str]:
    """Status code and body of `/readyz`. Raises OSError, TimeoutError."""
    deadline = time.monotonic() + TIMEOUT
    connection = _connect(directory, address)
    try:
        connection.sendall(_REQUEST)
        answer = b""
        while len(answer) < _LIMIT:
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError
            connection.settimeout(left)
            if not (more := connection.recv(_LIMIT)):
                break
            answer += more
    finally:
        connection.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.partition(b"\r\n")[0].decode("ascii", "replace").split()
    status = words[1] if len(words) > 1 and words[0].startswith("HTTP/") else ""
    return status, body.decode("utf-8", "replace")
