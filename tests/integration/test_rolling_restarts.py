"""A primary and a replica behind HAProxy, restarted in turn: its readers see no failure."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support import needs
from tests.support.container import (
    PATIENCE,
    ROOT,
    Container,
    free_port,
    request,
    wait_for,
)
from tests.support.replicas import FILE, replicating

RESTARTS = 5
READERS = 4
PAUSE = 0.05
"""Seconds between two requests of a reader."""


@pytest.fixture(scope="module")
def haproxy() -> str:
    """Return the program. Skips if there is none; in CI that is a failure."""
    return needs.program("haproxy")


@contextmanager
def balancer(program: str, primary: Container, replica: Container, log: Path) -> Iterator[str]:
    """HAProxy with the configuration that users get, before these two; its URL."""
    port = free_port()
    environ = {
        "BIND": f"127.0.0.1:{port}",
        "PRIMARY": "127.0.0.1",
        "PRIMARY_PORT": port_of(primary.devpi),
        "PRIMARY_SIDECAR_PORT": primary.env["SIDECAR_PORT"],
        "REPLICA": "127.0.0.1",
        "REPLICA_PORT": port_of(replica.devpi),
        "REPLICA_SIDECAR_PORT": replica.env["SIDECAR_PORT"],
    }
    with log.open("wb") as output:
        command = [program, "-db", "-f", str(ROOT / "deploy/haproxy/haproxy.cfg")]
        process = subprocess.Popen(command, env=environ, stdout=output, stderr=output)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


def port_of(url: str) -> str:
    """Return the port in a URL."""
    return str(urlsplit(url).port)


class Readers:
    """Clients with kept connections that request a project's page and a file in turn until stopped."""

    def __init__(self, url: str, paths: dict[str, bytes]) -> None:
        """`paths`: what to request, and what the answer must contain."""
        self._netloc = urlsplit(url).netloc
        self._paths = paths
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._read) for _ in range(READERS)]
        self.served: Counter[str] = Counter()
        self.failures: list[str] = []

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _read(self) -> None:
        connection = HTTPConnection(self._netloc, timeout=PATIENCE)
        while not self._stop.wait(PAUSE):
            for path, content in self._paths.items():
                try:
                    connection.request("GET", path)
                    answer = connection.getresponse()
                    body = answer.read()
                except (OSError, HTTPException) as error:
                    self.failures.append(f"{path}: {error!r}")
                    connection.close()
                    continue
                if answer.status != 200 or content not in body:
                    self.failures.append(f"{path}: {answer.status} {body[:200]!r}")
                self.served[answer.headers["X-Served-By"]] += 1
        connection.close()


def test_reads_never_fail(container: Callable[..., Container], haproxy: str, tmp_path: Path) -> None:
    """Five restarts, of the primary and the replica in turn, and not one failed request of four busy readers."""
    primary, replica, link = replicating(container, tmp_path)
    path = urlsplit(link).path
    paths = {"/root/dev/+simple/hello/": b"hello-1.0.tar.gz", path: FILE}
    with balancer(haproxy, primary, replica, tmp_path / "haproxy.log") as url:

        def served_by() -> set[str]:
            return {request(url + path).headers["x-served-by"] for _ in range(20)}

        wait_for(lambda: served_by() == {"primary", "replica"}, "both behind the balancer")
        with Readers(url, paths) as readers:
            for number in range(RESTARTS):
                restarted, other = (primary, "replica") if number % 2 == 0 else (replica, "primary")
                began = time.monotonic()
                assert 0 == restarted.stop(), restarted.log
                assert time.monotonic() - began < 2 + 3, "the delay, and no wait for a replica that polls"
                before = readers.served.copy()
                wait_for(lambda: readers.served.total() > before.total() + 20, "some reads without it")  # noqa: B023
                assert {other} == set(readers.served - before)
                restarted.start().wait_ready()
                wait_for(lambda: served_by() == {"primary", "replica"}, "its return")
        assert [] == readers.failures
    for stopped in (primary, replica):
        assert "were cut" not in stopped.log
    assert readers.served.total() > 50 * RESTARTS
    print(f"{RESTARTS} restarts, {readers.served.total()} requests, {len(readers.failures)} failed: {readers.served}")
