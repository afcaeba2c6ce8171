"""Downloads and uploads over plain sockets that a test can pause and resume."""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.support.container import upload_form


@contextmanager
def connected(url: str, receive_buffer: int | None = None) -> Iterator[socket.socket]:
    """A connection to the server of `url`."""
    parts = urlsplit(url)
    with socket.socket() as client:
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(30)
        client.connect((parts.hostname, parts.port))
        yield client


def refuses(url: str) -> bool:
    """Whether nothing listens there any more."""
    try:
        with connected(url):
            return False
    except ConnectionRefusedError:
        return True


@contextmanager
def downloading(link: str) -> Iterator[Callable[..., bytes]]:
    """A slow download, begun and paused; calling it reads the rest and returns the whole body.

    With a rate it reads so many bytes a second. It returns a partial body if nothing arrives for 30 s.
    """
    with connected(link, receive_buffer=32 * 1024) as client:
        client.sendall(f"GET {urlsplit(link).path} HTTP/1.0\r\nHost: {urlsplit(link).netloc}\r\n\r\n".encode())
        begin = client.recv(4096)
        assert b" 200 " in begin.splitlines()[0], begin

        def rest(rate: float | None = None) -> bytes:
            parts, got, began = [begin], 0, time.monotonic()
            try:
                while part := client.recv(1 << 20 if rate is None else 1 << 15):
                    parts.append(part)
                    got += len(part)
                    if rate is not None:
                        time.sleep(max(0.0, got / rate - (time.monotonic() - began)))
            except (ConnectionResetError, TimeoutError):
                pass
            return b"".join(parts).partition(b"\r\n\r\n")[2]

        yield rest


def auth_header(token: str) -> str:
    """The header that identifies the uploading user to devpi-server."""
    return f"X-Devpi-Auth: {base64.b64encode(f'root:{token}'.encode()).decode()}\r\n"


@contextmanager
def uploading(index: str, token: str, name: str, content: bytes, begin: int) -> Iterator[Callable[[], int]]:
    """An upload of `NAME-1.0.tar.gz` whose first `begin` bytes are sent; calling it sends the rest.

    This returns the status of the answer.
    """
    form, kind = upload_form(name, content)
    body = memoryview(form)
    with connected(index) as client:
        client.sendall(
            f"POST {urlsplit(index).path}/ HTTP/1.0\r\nHost: x\r\nAccept: application/json\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\n{auth_header(token)}\r\n".encode()
        )
        client.sendall(body[:begin])

        def rest() -> int:
            client.sendall(body[begin:])
            return int(client.recv(4096).split()[1])

        yield rest
