"""`sidecar healthcheck`: report whether `/readyz` answers 200, with few imports, because it starts every few seconds.

With `--wait` it returns once that is settled. With it, HEALTHCHECK waits for a long import and reports a failed one at
once: Docker ignores all failures within a start period, but waits for a running check.
"""

from __future__ import annotations

import _socket  # not `socket`, which takes 30 % more CPU time: 50 instead of 38 ms, median of 200 runs each
import os
import sys
import time

from sidecar.core import discovery
from sidecar.core.terminal import printable

TIMEOUT = 3.0
"""Seconds for one request: connect, send, read."""
SILENCE = 30.0
"""Seconds without any answer after which `--wait` gives up: a container starts, or stops, sooner."""
UNSETTLED = frozenset({"starting", "initialising", "importing", "launching"})
"""The phases during which `--wait` waits; importing `lifecycle.Phase` costs too much."""

_FOLLOWS = ("pending: not checked yet", "failed: devpi-server is not running")
"""The end of a check's line (`sidecar.core.check`) if the line of `process` has the reason."""
_PAUSE = 0.5
"""Seconds between two requests of `--wait`."""
_REQUEST = "GET {} HTTP/1.0\r\nHost: localhost\r\nAccept: {}\r\nConnection: close\r\n\r\n"
_CHUNK = 64 * 1024
_LIMIT = 8 * 2**20
"""Maximum bytes of an answer: `/status` lists up to 1,000 archives."""


def main(*, wait: bool = False) -> int:
    """Print one line about readiness; return 0 if ready, 1 otherwise.

    `wait`: return only once it is ready, or waiting does not help: it failed, stops, or was ready before.
    """
    code, text = _look()
    heard = time.monotonic()
    while wait and code:
        phase = _phase()  # before the look: it may get ready in between
        code, text = _look()
        at = time.monotonic()
        if phase is not None:
            heard = at
        if code and phase not in UNSETTLED and (phase is not None or at - heard >= SILENCE):
            break
        if code:
            time.sleep(_PAUSE)
    return _say(text, code)


def _look() -> tuple[int, str]:
    """Return the exit code and the line to print."""
    try:
        directory = discovery.runtime_dir(os.environ)
        address = discovery.address(directory)
    except discovery.NoSidecar as error:
        return 1, f"no sidecar here: {error}"
    try:
        status, body = _get(directory, address, "/readyz", "text/plain")
    except TimeoutError:
        return 1, f"the sidecar does not answer within {TIMEOUT:g} s"
    except OSError as error:
        where = "its socket" if address is None else f"{address[0]} port {address[1]}"
        return 1, f"no sidecar answers at {where}: {error.strerror or error}"
    if status == "200":
        return 0, "ready"
    return 1, f"not ready ({status or 'no HTTP answer'}): {_why(body)}"


def _why(body: str) -> str:
    """Return the lines of the blocking checks, without those that only follow from another one."""
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    blocking = [line.removeprefix("[-]") for line in lines if line.startswith("[-]")]  # Kubernetes' format
    reasons = [line for line in blocking if not line.endswith(_FOLLOWS)]
    return "; ".join(reasons or blocking or lines)


def _phase() -> str | None:
    """Return the phase in `/status`; None: no valid answer."""
    import json  # 5 ms, which a check of a ready container saves

    try:
        directory = discovery.runtime_dir(os.environ)
        status, body = _get(directory, discovery.address(directory), "/status", "application/json")
        found = json.loads(body) if status == "200" else None
    except (discovery.NoSidecar, OSError, ValueError, RecursionError):
        return None
    phase = found.get("phase") if isinstance(found, dict) else None
    return phase if isinstance(phase, str) else None


def _say(text: str, code: int) -> int:
    """Print `text`, which `docker inspect` shows; return `code` even if stdout is closed."""
    try:
        sys.stdout.write(printable(text, 1000).encode("ascii", "backslashreplace").decode() + "\n")
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # otherwise Python's flush at exit makes the code 120
    return code


def _connect(directory: str, address: tuple[str, int] | None) -> _socket.socket:
    """Raises OSError, TimeoutError."""
    if address is None:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return _connected(_socket.AF_UNIX, discovery.socket_path(folder))
        finally:
            os.close(folder)
    # As bytes: for a str, getaddrinfo imports the idna codec, 8 ms.
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


def _get(directory: str, address: tuple[str, int] | None, path: str, accept: str) -> tuple[str, str]:
    """Return status code and body of `path`. Raises OSError, TimeoutError."""
    deadline = time.monotonic() + TIMEOUT
    connection = _connect(directory, address)
    try:
        connection.sendall(_REQUEST.format(path, accept).encode())
        answer = b""
        while len(answer) < _LIMIT:
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError
            connection.settimeout(left)
            if not (more := connection.recv(_CHUNK)):
                break
            answer += more
    finally:
        connection.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.partition(b"\r\n")[0].decode("ascii", "replace").split()
    status = words[1] if len(words) > 1 and words[0].startswith("HTTP/") else ""
    return status, body.decode("utf-8", "replace")
