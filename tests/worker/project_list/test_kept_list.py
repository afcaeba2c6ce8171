"""`sidecar.worker.project_list.kept_list`: a list is replaced by a whole one only, and is never lost."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from sidecar.worker.project_list.conversion import Failure
from sidecar.worker.project_list.kept_list import ProjectList
from sidecar.worker.project_list.response import Response
from tests.worker.project_list.documents import ROOT, as_html, as_json

NAMES = [f"name{number}" for number in range(20)]
JSON = "application/vnd.pypi.simple.v1+json"


@dataclass
class Upstream:
    """What a real server on loopback answers."""

    status: int = 200
    body: bytes = field(default_factory=lambda: as_json(NAMES))
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": JSON, "ETag": '"1"'})
    length: int | None = None
    """Content-Length, if it is not the body's."""
    pause: threading.Event | None = None
    """Set to go on after the first half of the body."""
    paused: threading.Event = field(default_factory=threading.Event)
    """The first half is sent."""
    asked: list[str | None] = field(default_factory=list)
    """If-None-Match of each request."""
    url: str = ""


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    answers = Upstream()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.asked.append(self.headers["If-None-Match"])
            self.send_response(answers.status)
            for name, value in answers.headers.items():
                self.send_header(name, value)
            if answers.status != 304:
                self.send_header("Content-Length", str(len(answers.body) if answers.length is None else answers.length))
            self.end_headers()
            if answers.status == 304:
                return
            half = len(answers.body) // 2
            with contextlib.suppress(OSError):
                self.wfile.write(answers.body[:half])
                if answers.pause is not None:
                    answers.paused.set()
                    answers.pause.wait(60)
                self.wfile.write(answers.body[half:])

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        answers.url = f"http://127.0.0.1:{server.server_address[1]}/simple/"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield answers
        if answers.pause is not None:
            answers.pause.set()
        server.shutdown()
        thread.join()


@dataclass
class World:
    """A list with clocks of its own."""

    upstream: Upstream
    folder: Path
    now: float = 1_000_000.0
    log: list[str] = field(default_factory=list)
    opened: list[ProjectList] = field(default_factory=list)

    def open(
        self, *, url: str | None = None, seconds: float = 60, max_bytes: int = 2**20, index: str = "root/pypi"
    ) -> ProjectList:
        made = ProjectList(
            self.folder,
            index,
            self.fetch,
            url=url or self.upstream.url,
            expiry=1800,
            max_bytes=max_bytes,
            seconds=seconds,
            log=self.log.append,
            clock=lambda: self.now,
            monotonic=lambda: self.now,
        )
        self.opened.append(made)
        return made

    def fetch(self, etag: str | None) -> AbstractContextManager[Response]:
        return httpx.stream(
            "GET",
            self.upstream.url,
            headers={} if etag is None else {"If-None-Match": etag},
            timeout=60,
            trust_env=False,
        )

    def refresh(self, projects: ProjectList) -> None:
        """One refresh, to its end."""
        self.now += 1000
        assert projects.refresh_if_due()
        projects.wait(60)
        assert projects._idle.is_set()

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.exists() else []


@pytest.fixture
def world(upstream: Upstream, tmp_path: Path) -> Iterator[World]:
    made = World(upstream, tmp_path / "mirrors")
    yield made
    for opened in made.opened:
        opened.close()


def test_there_is_no_answer_without_a_list(world: World) -> None:
    projects = world.open()
    assert (projects.contains("name1"), projects.state, projects.is_fresh) == (None, "missing", False)
    assert (projects.count, projects.fetched_at, projects.error) == (None, None, None)
    assert list(projects.names()) == []


@pytest.mark.parametrize("kind", ["json", "html", "gzip"])
def test_a_refresh_brings_the_list_and_a_restart_keeps_it(world: World, kind: str) -> None:
    if kind == "html":
        world.upstream.headers["Content-Type"] = "text/html; charset=utf-8"
        world.upstream.body = as_html(NAMES)
    elif kind == "gzip":
        world.upstream.headers["Content-Encoding"] = "gzip"
        world.upstream.body = gzip.compress(world.upstream.body)
    projects = world.open()
    world.refresh(projects)
    assert projects.error is None
    assert (projects.contains("name1"), projects.contains("name99"), projects.state) == (True, False, "fresh")
    assert (projects.count, projects.fetched_at) == (20, world.now)
    assert world.files() == ["root%2Fpypi.list"]
    assert world.folder.stat().st_mode & 0o777 == 0o700
    again = world.open()
    assert (again.contains("name1"), again.contains("name99"), again.state) == (True, False, "fresh")
    assert sorted(again.names()) == sorted(NAMES)
    world.now += 1801
    assert again.state == "stale"
    assert again.contains("name1")
    world.now -= 100_000
    assert again.state == "stale", "from the future"


def test_a_fresh_list_is_not_fetched_and_one_refresh_runs_at_a_time(world: World) -> None:
    world.upstream.pause = threading.Event()
    projects = world.open()
    assert projects.refresh_if_due()
    assert world.upstream.paused.wait(60)
    assert all(projects.refresh_if_due() for _ in range(20))
    assert projects.contains("name1") is None
    world.upstream.pause.set()
    assert projects.wait(60)
    assert not projects.refresh_if_due()
    assert len(world.upstream.asked) == 1


def test_304_keeps_the_list_and_makes_it_fresh_also_on_disk(world: World) -> None:
    projects = world.open()
    world.refresh(projects)
    world.upstream.status = 304
    world.now += 2000
    world.refresh(projects)
    assert world.upstream.asked == [None, '"1"']
    assert (projects.state, projects.fetched_at, projects.error) == ("fresh", world.now, None)
    assert (world.open().fetched_at, world.open().count) == (world.now, 20)


def test_304_without_a_list_is_a_failure(world: World) -> None:
    world.upstream.status = 304
    projects = world.open()
    world.refresh(projects)
    assert projects.error is not None
    assert (projects.error.kind, projects.state) == ("status", "missing")


FAILURES: dict[str, tuple[Callable[[Upstream], None], str]] = {
    "500": (lambda up: setattr(up, "status", 500), "status"),
    "401": (lambda up: setattr(up, "status", 401), "denied"),
    "429": (lambda up: setattr(up, "status", 429), "limited"),
    "a redirect": (lambda up: setattr(up, "status", 302), "status"),
    "no connection": (lambda up: setattr(up, "url", "http://127.0.0.1:1/"), "cut"),
    "a body that is cut": (lambda up: setattr(up, "length", 10_000), "cut"),
    "a document that is cut": (lambda up: setattr(up, "body", as_json(NAMES)[:-3]), "cut"),
    "garbage": (lambda up: setattr(up, "body", os.urandom(5000)), "unreadable"),
    "another kind": (lambda up: up.headers.update({"Content-Type": "image/png"}), "unreadable"),
    "version 2": (lambda up: up.headers.update({"Content-Type": "application/vnd.pypi.simple.v2+json"}), "unreadable"),
    "another encoding": (lambda up: up.headers.update({"Content-Encoding": "br"}), "unreadable"),
    "too large": (lambda up: setattr(up, "body", as_json(["a"] * 100_000)), "too-large"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_keeps_the_list_and_is_explained(world: World, case: str) -> None:
    projects = world.open()
    world.refresh(projects)
    break_it, kind = FAILURES[case]
    break_it(world.upstream)
    world.now += 2000
    world.refresh(projects)
    assert projects.error is not None
    assert projects.error.kind == kind
    assert projects.error.reason
    assert projects.error.hint
    assert (projects.contains("name1"), projects.count, projects.state) == (True, 20, "stale")
    assert world.files() == ["root%2Fpypi.list"]
    assert len(world.log) == 1


def test_failures_are_retried_after_growing_times_and_logged_once(world: World) -> None:
    world.upstream.status = 500
    projects = world.open()
    for delay in (5, 10, 20, 40, 80, 160, 300, 300):
        assert projects.refresh_if_due()
        projects.wait(60)
        world.now += delay * 0.99
        assert not projects.refresh_if_due()
        world.now += delay * 0.22
    world.upstream.status = 200
    world.refresh(projects)
    assert (projects.state, projects.error, len(world.log)) == ("fresh", None, 2)


def test_the_cause_of_a_failed_request_is_the_client_s(world: World) -> None:
    projects = world.open()
    projects._explain = lambda error: Failure("refused", f"explained {type(error).__name__}", "a hint")
    world.upstream.url = "http://127.0.0.1:1/"
    world.refresh(projects)
    assert projects.error is not None
    assert (projects.error.kind, projects.error.reason) == ("refused", "explained ConnectError")


def test_a_list_that_shrank_is_used_only_if_a_later_one_is_the_same(world: World) -> None:
    projects = world.open()
    world.refresh(projects)
    world.upstream.body = as_json(NAMES[:9])
    world.now += 2000
    world.refresh(projects)
    assert (projects.count, projects.state) == (20, "stale")
    assert projects.error is not None
    assert "9 names" in projects.error.reason
    world.refresh(projects)
    assert (projects.count, projects.state, projects.error) == (9, "fresh", None)


def test_a_list_of_another_upstream_is_none(world: World) -> None:
    world.refresh(world.open())
    projects = world.open(url="http://127.0.0.1:1/other/")
    assert (projects.contains("name1"), projects.state) == (None, "missing")


@pytest.mark.parametrize("size", [0, 10, 100, -1])
def test_a_torn_file_is_no_list_and_is_replaced(world: World, size: int) -> None:
    world.refresh(world.open())
    path = world.folder / "root%2Fpypi.list"
    path.write_bytes(path.read_bytes()[:size])
    projects = world.open()
    assert (projects.contains("name1"), projects.state) == (None, "missing")
    assert len(world.log) == 1
    world.refresh(projects)
    assert projects.contains("name1")


def test_leftovers_of_this_mirror_alone_are_removed_at_the_start(world: World) -> None:
    world.folder.mkdir()
    token = "0123456789abcdef"
    for name in (
        f".tmp-root%2Fpypi.list-{token}",
        f".tmp-root%2Fpypi.list-{token}-runs",
        f".tmp-root%2Fpypi2.list-{token}",
    ):
        (world.folder / name).touch()
    world.open()
    assert world.files() == [f".tmp-root%2Fpypi2.list-{token}"]


def test_a_fetch_that_takes_too_long_ends(world: World) -> None:
    world.upstream.pause = threading.Event()
    projects = world.open(seconds=0.5)
    assert projects.refresh_if_due()
    _until(lambda: projects._conversion is not None)
    conversion = projects._conversion
    assert conversion is not None
    _until(lambda: conversion._process.poll() is not None)
    world.upstream.pause.set()
    projects.wait(60)
    assert projects.error is not None
    assert projects.error.kind == "timeout"
    assert (projects.state, world.files()) == ("missing", [])


def _until(condition: Callable[[], bool]) -> None:
    """Wait for it, at most a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("when", ["at once", "in the body"])
def test_a_killed_subprocess_is_a_failure(world: World, when: str) -> None:
    world.refresh(projects := world.open())
    world.now += 2000
    world.upstream.pause = threading.Event()
    assert projects.refresh_if_due()
    if when == "in the body":
        assert world.upstream.paused.wait(60)
    _until(lambda: projects._conversion is not None)
    conversion = projects._conversion
    assert conversion is not None
    os.kill(conversion.pid, signal.SIGKILL)
    world.upstream.pause.set()
    projects.wait(60)
    assert projects.error is not None
    assert "SIGKILL" in projects.error.reason
    assert (projects.count, world.files()) == (20, ["root%2Fpypi.list"])


def test_close_ends_the_subprocess_and_keeps_the_list(world: World) -> None:
    world.refresh(projects := world.open())
    world.now += 2000
    world.upstream.pause = threading.Event()
    assert projects.refresh_if_due()
    _until(lambda: projects._conversion is not None)
    conversion = projects._conversion
    assert conversion is not None
    world.upstream.pause.set()
    projects.close()
    _until(lambda: not Path(f"/proc/{conversion.pid}").exists())
    assert not projects.refresh_if_due()
    assert (projects.contains("name1"), world.files()) == (True, ["root%2Fpypi.list"])
    projects.remove()
    assert world.files() == []


PARENT = """
import sys, threading
from pathlib import Path
import httpx
from sidecar.worker.project_list.kept_list import ProjectList
url, folder = sys.argv[1:]
def fetch(etag):
    return httpx.stream("GET", url, timeout=60, trust_env=False)
projects = ProjectList(Path(folder), "root/pypi", fetch, url=url, expiry=0, max_bytes=2**26, seconds=60, log=print)
projects.refresh_if_due()
print("started", flush=True)
projects.wait(60)
print("done", flush=True)
threading.Event().wait(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["started", "half", "done"])
def test_a_kill_of_the_caller_leaves_a_whole_list_or_none(world: World, when: str) -> None:
    if when == "half":
        world.upstream.pause = threading.Event()
    world.folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, world.upstream.url, str(world.folder)],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        text=True,
    )
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            if line.strip() == when or (when == "half" and world.upstream.paused.wait(60)):
                break
        process.kill()
    projects = world.open()
    expected = {"done": (True,), "half": (None,)}.get(when, (True, None))
    assert projects.contains("name1") in expected
    _until(lambda: not _converting(world.folder))
    world.open()
    assert set(world.files()) <= {"root%2Fpypi.list"}
    if world.upstream.pause is not None:
        world.upstream.pause.set()
    if projects.contains("name1") is None:
        world.refresh(projects)
        assert projects.contains("name1")


def _converting(folder: Path) -> bool:
    """Whether a subprocess for this folder is running."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"{folder}/.tmp-".encode() in process.read_bytes():
                return True
    return False


def test_a_folder_that_cannot_be_written_is_named(world: World) -> None:
    world.folder.write_text("not a folder")
    projects = world.open()
    world.refresh(projects)
    assert projects.error is not None
    assert ".sidecar/mirrors" in projects.error.hint
    assert projects.state == "missing"
