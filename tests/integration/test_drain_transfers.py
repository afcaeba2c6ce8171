"""A stop with many running transfers: none is cut in either direction, and accepted uploads are there afterwards."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from tests.support.container import (
    PATIENCE,
    Container,
    call_devpi,
    login_token,
    make_index,
    request,
    upload,
    upload_form,
    wait_for,
)
from tests.support.transfers import auth_header, connected, refuses

pytestmark = pytest.mark.slow

SIZE = 50 * 10**6
"""Bytes of each transfer."""
EACH_WAY = 10
CHUNK = 256 * 1024
PAUSE = 0.02
"""Seconds between two chunks: a transfer takes 4 s at least, at 12 MB/s."""


@dataclass
class Crowd:
    """Clients that begin their transfer, wait until all have begun and the stop too, and continue slowly."""

    go_on: threading.Event = field(default_factory=threading.Event)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def _pause(self) -> None:
        self.begun.release()
        assert self.go_on.wait(PATIENCE)

    def download(self, link: str) -> str:
        """Return the digest of what was received."""
        with connected(link, receive_buffer=32 * 1024) as client:
            client.sendall(f"GET {urlsplit(link).path} HTTP/1.0\r\nHost: {urlsplit(link).netloc}\r\n\r\n".encode())
            received = b""
            while b"\r\n\r\n" not in received:
                received += client.recv(1024)
            assert b" 200 " in received.splitlines()[0], received
            sha256 = hashlib.sha256(received.partition(b"\r\n\r\n")[2])
            self._pause()
            while part := client.recv(CHUNK):
                sha256.update(part)
                time.sleep(PAUSE * len(part) / CHUNK)
        return sha256.hexdigest()

    def upload(self, index: str, token: str, name: str, content: bytes) -> int:
        """Return the status of an upload of these bytes, whose name precedes them."""
        marker = b"THE CONTENT"
        form, kind = upload_form(name, marker)
        head, tail = form.split(marker)
        head += name.encode()
        size = len(head) + len(content) + len(tail)
        body = memoryview(content)
        with connected(index) as client:
            client.settimeout(PATIENCE)
            client.sendall(
                f"POST {urlsplit(index).path}/ HTTP/1.0\r\nHost: x\r\nAccept: application/json\r\n"
                f"Content-Type: {kind}\r\nContent-Length: {size}\r\n{auth_header(token)}\r\n".encode()
                + head
            )
            client.sendall(body[:CHUNK])
            self._pause()
            for start in range(CHUNK, len(body), CHUNK):
                client.sendall(body[start : start + CHUNK])
                time.sleep(PAUSE)
            client.sendall(tail)
            return int(client.recv(4096).split()[1])


@pytest.fixture
def serving(container: Callable[..., Container]) -> Iterator[Container]:
    """A container with a known root password and a long grace; its gigabyte is deleted."""
    password = "the root password of these tests"
    new = container(env={"DEVPI_PASSWORD": password, "SIDECAR_STOP_DELAY": "1", "SIDECAR_STOP_GRACE": "300"})
    yield new.start().wait_ready()
    new.kill()
    shutil.rmtree(new.serverdir)


def test_no_transfer_is_cut(serving: Container) -> None:
    """10 downloads and 10 uploads of 50 MB run at SIGTERM.

    Not ready at once; served for the delay; then the listener and an idle keep-alive connection are closed, while all
    20 finish; code 0, and every acknowledged upload is there after a restart, byte by byte.
    """
    c, devpi = serving, serving.devpi
    token = login_token(devpi, c.env["DEVPI_PASSWORD"])
    index = make_index(devpi, token)
    content = os.urandom(SIZE)
    link = upload(index, token, "big", content).partition("#")[0]
    names = [f"late{number}" for number in range(EACH_WAY)]
    crowd = Crowd()
    idle = HTTPConnection(urlsplit(devpi).netloc, timeout=PATIENCE)
    with closing(idle), ThreadPoolExecutor(2 * EACH_WAY) as clients:
        idle.request("GET", "/+api")
        assert b"apiconfig" in idle.getresponse().read()
        downloads = [clients.submit(crowd.download, link) for _ in names]
        uploads = [clients.submit(crowd.upload, index, token, name, content) for name in names]
        for _ in range(2 * EACH_WAY):
            assert crowd.begun.acquire(timeout=PATIENCE)

        os.kill(c.pid, signal.SIGTERM)
        wait_for(lambda: c.get("/readyz").status == 503, "not ready")
        assert 200 == request(f"{devpi}/+api").status, "a load balancer may not have noticed yet"
        wait_for(lambda: refuses(devpi), "the listener to close")
        assert b"" == idle.sock.recv(1)
        assert not any(each.done() for each in [*downloads, *uploads])
        crowd.go_on.set()
        assert {hashlib.sha256(content).hexdigest()} == {each.result() for each in downloads}
        assert [200] * EACH_WAY == [each.result() for each in uploads]
    assert 0 == c.wait_end()
    assert "were cut" not in c.log
    assert not (c.serverdir / ".sidecar" / "tmp").exists(), "where uploads are spooled"

    c.start().wait_ready()
    for name in names:
        (uploaded,) = call_devpi(f"{c.devpi}/root/dev/{name}", token=token).json["result"]["1.0"]["+links"]
        sha256 = hashlib.sha256(name.encode() + content).hexdigest()
        assert sha256 == uploaded["hashes"]["sha256"]
        assert sha256 == hashlib.sha256(request(c.devpi + urlsplit(uploaded["href"]).path).body).hexdigest()
    assert 0 == c.stop()
