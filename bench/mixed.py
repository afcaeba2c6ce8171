"""Mixed load on a server with a mirror: many kinds of requests, and the correct answer to each."""

from __future__ import annotations

import base64
import bisect
import contextlib
import http.client
import itertools
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bench.processes import PASSWORD, Ours, get
from bench.rounds import Failed
from testbed import packages
from testbed.upstream import HANGS, JSON, Fault, Upstream, numbered

VERSIONS = 40
"""Files of each project of the mirror."""
FAULT_EVERY = 60.0
"""Seconds from one upstream fault to the next."""
FAULT_SECONDS = 8.0
"""Duration of a fault in seconds."""
_PATIENCE = 60.0
_FAULTS: tuple[Fault | None, ...] = (Fault(429, "2"), None, Fault(500), None, HANGS, None)
_STORED = 10.0
"""Seconds after which a wheel is certainly stored."""
_SHOWN = 30
"""Maximum number of wrong answers that are printed."""
KINDS = (
    *("cold", "wheels", "cached pages", "cached wheels", "unknown names", "uploads", "private pages", "logins"),
    *("listings", "probes"),
)
"""Kinds of requests."""


@dataclass
class Counts:
    """Counters of answers."""

    right: Counter[str] = field(default_factory=Counter)
    later: int = 0
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, kind: str, path: str, answer: Answer, wanted: int, files: int = 0) -> bool:
        """Count one answer; return whether it has the status `wanted` and at least `files` files."""
        right = answer.status == wanted and answer.body.count(b'"filename"') >= files
        later = answer.status in (502, 503) and answer.retry_after is not None
        with self.lock:
            if right:
                self.right[kind] += 1
            elif later:
                self.later += 1
            else:
                self.wrong.append(f"{kind} {path}: {answer.status} {answer.body[:300]!r}")
                if len(self.wrong) <= _SHOWN:
                    print(f"    {time.strftime('%H:%M:%S')} wrong: {self.wrong[-1]}", file=sys.stderr, flush=True)
        return right


@dataclass(frozen=True)
class Answer:
    """An answer of devpi-server or the sidecar; status 0: none."""

    status: int
    body: bytes = b""
    retry_after: str | None = None


class Load:
    """The clients, each a thread."""

    def __init__(self, ours: Ours, token: str, upstream: Upstream) -> None:
        self.counts = Counts()
        self.upstream = upstream
        self._token = token
        self._cached: list[tuple[float, str]] = []
        """When a wheel arrived, and its path. devpi-server stores it after the last byte; until then it answers a
        second client for it with 500 (a failed `assert` of its own).
        """
        self._new = itertools.count()
        self._uploads = itertools.count(1)
        self._chance = random.Random(0)
        self.ours = ours
        """Another one after a pause."""
        self._over = threading.Event()
        self._may_ask = threading.Event()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run all clients, with faults of upstream."""
        kinds: list[tuple[Callable[[], None], float]] = [
            (self._mirror_a_project, 0.0),
            *[(self._ask_for_what_is_cached, 0.2)] * 4,
            (self._ask_for_nothing, 2.0),
            (self._upload_and_look, 3.0),
            (self._log_in, 5.0),
            (self._list, 60.0),
            (self._probe, 2.0),
        ]
        self._may_ask.set()
        self._threads = [threading.Thread(target=self._again, args=kind, daemon=True) for kind in kinds]
        self._threads.append(threading.Thread(target=self._trouble_upstream, daemon=True))
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._may_ask.set()
            for thread in self._threads:
                thread.join()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Pause all clients while the server restarts."""
        self._may_ask.clear()
        for _ in self._threads[:-1]:  # not the thread of upstream's faults
            self._idle.acquire()
        yield
        self._may_ask.set()

    def _again(self, ask: Callable[[], None], pause: float) -> None:
        while not self._over.is_set():
            if not self._may_ask.is_set():
                self._idle.release()
                self._may_ask.wait()
                continue
            ask()
            if self._may_ask.is_set():
                self._over.wait(pause)

    def _trouble_upstream(self) -> None:
        for fault in itertools.cycle(_FAULTS):
            if self._over.wait(FAULT_EVERY - FAULT_SECONDS):
                return
            self.upstream.page_fault = fault
            self._over.wait(FAULT_SECONDS)
            self.upstream.heal()

    def _mirror_a_project(self) -> None:
        """Request a new project, and one wheel of it."""
        name = numbered(next(self._new))
        page = f"/root/dev/+simple/{name}/"
        answer = self.page("cold", page)
        if answer.status != 200:
            self._over.wait(2)
            return
        files = json.loads(answer.body)["files"]
        path = _resolved(page, files[0]["url"])
        if self.counts.count("wheels", path, self._get(path), 200):
            self._cached.append((time.monotonic(), path))

    def _ask_for_what_is_cached(self) -> None:
        stored = bisect.bisect(self._cached, (time.monotonic() - _STORED,))
        if stored:
            _, path = self._chance.choice(self._cached[:stored])
            page = f"/root/dev/+simple/{path.split('/')[-1].partition('-')[0].replace('_', '-')}/"
            self.page("cached pages", page)
            self.counts.count("cached wheels", path, self._get(path), 200)

    def _ask_for_nothing(self) -> None:
        page = f"/root/dev/+simple/not-there-{time.monotonic_ns()}/"
        self.counts.count("unknown names", page, self._get(page), 404)

    def upload(self) -> str:
        """Upload a wheel of a private project; return the project's name."""
        number = next(self._uploads)
        wheel = packages.wheel(f"private-{number % 20:02d}", f"1.{number}", number)
        fields = {":action": "file_upload", "metadata_version": "2.1", "filetype": "bdist_wheel", "pyversion": "py3"}
        body, kind = form({**fields, "name": wheel.name, "version": wheel.version}, wheel.filename, wheel.content)
        headers = {"Content-Type": kind, "X-Devpi-Auth": self._token}
        self.counts.count("uploads", wheel.filename, self._ask("POST", "/root/dev/", headers, body), 200)
        return wheel.name

    def _upload_and_look(self) -> None:
        page = f"/root/dev/+simple/{self.upload()}/"
        self.counts.count("private pages", page, self._get(page), 200, 1)

    def page(self, kind: str, path: str) -> Answer:
        """Request the page of a project of the mirror."""
        answer = self._get(path)
        self.counts.count(kind, path, answer, 200, VERSIONS)
        return answer

    def _log_in(self) -> None:
        body = json.dumps({"user": "root", "password": PASSWORD}).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        self.counts.count("logins", "/+login", self._ask("POST", "/+login", headers, body), 200)

    def _list(self) -> None:
        self.counts.count("listings", "/root/pypi/+simple/", self._get("/root/pypi/+simple/"), 200)

    def _probe(self) -> None:
        for path in ("/readyz", "/metrics"):
            try:
                status, _ = get(self.ours.port, path)
            except OSError:
                status = 0
            self.counts.count("probes", path, Answer(status), 200)

    def _get(self, path: str) -> Answer:
        return self._ask("GET", path, {"Accept": JSON})

    def _ask(self, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> Answer:
        return ask(self.ours.devpi_port, method, path, headers, body)


def ask(port: int, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> Answer:
    """Send one request over a new connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read(), answer.getheader("Retry-After"))
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, repr(error).encode())
    finally:
        connection.close()


def form(fields: dict[str, str], filename: str, content: bytes) -> tuple[bytes, str]:
    """Return body and content type of an upload, as twine sends it."""
    parts = [f'--BOUND\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()]
    head = f'--BOUND\r\nContent-Disposition: form-data; name="content"; filename="{filename}"\r\n\r\n'
    body = "".join([*parts, head]).encode() + content + b"\r\n--BOUND--\r\n"
    return body, "multipart/form-data; boundary=BOUND"


def _resolved(page: str, link: str) -> str:
    """Return the path of a relative link on a page."""
    parts = page.rstrip("/").split("/")
    path = link.partition("#")[0]
    while path.startswith("../"):
        path, parts = path.removeprefix("../"), parts[:-1]
    return path if path.startswith("/") else "/".join([*parts, path])


def point_at(port: int, upstream: Upstream, *, project_list: bool = True) -> str:
    """Make root/pypi mirror `upstream` and create root/dev with it as base; return a login of root as X-Devpi-Auth.

    `project_list`: the mirror keeps the list of the upstream's projects.
    """
    said = _api(port, "POST", "/+login", {}, {"user": "root", "password": PASSWORD})
    token = base64.b64encode(f"root:{said['result']['password']}".encode()).decode()
    auth = {"X-Devpi-Auth": token}
    config = [f"mirror_url={upstream.url}", f"mirror_no_project_list={not project_list}"]
    _api(port, "PATCH", "/root/pypi", auth, config)
    _api(port, "PUT", "/root/dev", auth, {"bases": ["root/pypi"], "volatile": True})
    return token


def _api(port: int, method: str, path: str, headers: dict[str, str], content: object) -> dict[str, Any]:
    given = {"Content-Type": "application/json", "Accept": "application/json", **headers}
    answer = ask(port, method, path, given, json.dumps(content).encode())
    if answer.status != 200:
        raise Failed(f"{method} {path} answered {answer.status}: {answer.body[:200]!r}")
    said: dict[str, Any] = json.loads(answer.body)
    return said
