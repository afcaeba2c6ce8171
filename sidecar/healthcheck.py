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
        host, port = locate.address(locate.runtime_dir(os.environ))
    except locate.NoSidecar as error:
        return _say(f"no sidecar here: {error}", 1)
    try:
        status, body = _get(host, port)
    except TimeoutError:
        return _say(f"the sidecar does not answer within {TIMEOUT:g} s", 1)
    except OSError as error:
        return _say(f"no sidecar answers at {host} port {port}: {error.strerror or error}", 1)
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


def _get(host: str, port: int) -> tuple[str, str]:
    """Status code and body of `/readyz`. Raises OSError, TimeoutError."""
    deadline = time.monotonic() + TIMEOUT
    # As bytes: for text, getaddrinfo first imports the idna codec, 8 ms.
    family, kind, protocol, _, address = _socket.getaddrinfo(host.encode(), port, type=_socket.SOCK_STREAM)[0]
    connection = _socket.socket(family, kind, protocol)
    try:
        connection.settimeout(TIMEOUT)
        connection.connect(address)
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
