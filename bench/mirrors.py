"""A mirror of an index as large as PyPI, under the limits of a small container: `soak`."""

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
from pathlib import Path
from typing import Any

from bench import packages, sampling
from bench.limits import MemoryLimit
from bench.processes import PASSWORD, Ours, get
from bench.report import Reach, Result, Row
from bench.rounds import Bench, Comparison, Failed, Values
from bench.upstream import HANGS, JSON, PYPI_NAMES, Fault, Upstream, numbered

MIB = sampling.MIB
LIMIT = 256 * MIB
"""As docs/operations.md, README and the manifests have it for a server with a mirror."""
CPUS = 0.5
VERSIONS = 40
"""Files of each project."""
_PATIENCE = 60.0
_OFFLINE = ("--offline-mode",)
_FAULTS: tuple[Fault | None, ...] = (Fault(429, "2"), None, Fault(500), None, HANGS, None)
_FAULT_EVERY = 60.0
_FAULT_SECONDS = 8.0
_STORED = 10.0
"""Seconds after which a wheel is surely stored."""
_SHOWN = 30
"""Wrong answers that are shown in full."""


def soak(bench: Bench) -> Result:
    """Mixed load and a mirror for an hour, with one restart: nothing is killed, and nothing is answered wrongly."""
    minutes = min(bench.minutes, 2.0) if bench.quick else bench.minutes
    with MemoryLimit(LIMIT, CPUS) as limit:
        how = limit.how
    outcome = bench.in_turn({"ours": lambda folder: run(folder, minutes * 60)}, rounds=1)

    def row(what: str, unit: str, quantity: str, reach: Reach | None = None) -> Row:
        return Row(what, unit, None, outcome.series("ours", quantity), reach)

    most = Reach("worst", "≤", LIMIT / MIB)
    return Result(
        [
            row("processes killed for want of memory", "", "kills", Reach("worst", "≤", 0)),
            row("most memory charged, page cache included", "MiB", "peak", most),
            row("most of it that is no page cache (heaps)", "MiB", "anonymous", most),
            row("most of it in use lately, as Kubernetes has it (working set)", "MiB", "working set", most),
            row("devpi-server's greatest RSS", "MiB", "devpi"),
            row("the sidecar's greatest RSS", "MiB", "sidecar"),
            row("ready at the end (1 = yes)", "", "ready", Reach("worst", "≥", 1)),
            row("projects mirrored", "", "cold"),
            *(row(f"{what}: right answers", "", what) for what in _KINDS if what != "cold"),
            row("answers “try again later” (502, 503 with Retry-After)", "", "later"),
            row("wrong answers: 404 or no files for what exists, any other status, none", "", "wrong",
                Reach("worst", "≤", 0)),
        ],
        [
            f"{minutes:.0f} minutes, ours alone, {LIMIT // MIB} MiB without swap and {CPUS} CPU by {how}; "
            "the container stops and starts again in the middle.",
            f"Upstream: {PYPI_NAMES:,} names, pages of {VERSIONS} files, 30 ms for each answer, on this machine; "
            f"every {_FAULT_EVERY:.0f} s it is well, or fails for {_FAULT_SECONDS:.0f} s (429, 500, silence).",
            "Load: new projects and a wheel of each as fast as one client can, four clients with what is cached, "
            "names that are nowhere, uploads, logins, private pages, the listing, `/readyz`, `/metrics`.",
        ],
    )  # fmt: skip


@dataclass
class Counts:
    """What was answered."""

    right: Counter[str] = field(default_factory=Counter)
    later: int = 0
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, kind: str, path: str, answer: Answer, wanted: int, files: int = 0) -> bool:
        """One answer, of which `wanted` is the right status and `files` the least number of files; if it is right."""
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
    """Of devpi-server or the sidecar; status 0: none."""

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
        """When a wheel came, and its path. devpi-server stores it after the last byte, and until then is not prepared
        for a second client that wants it: it answers 500 (an `assert` of its own).
        """
        self._new = itertools.count()
        self._uploads = itertools.count(1)
        self._chance = random.Random(0)
        self.ours = ours
        """May be another one after a pause."""
        self._over = threading.Event()
        self._may_ask = threading.Event()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """All clients ask, and upstream fails now and then."""
        kinds: list[tuple[Callable[[], None], float]] = [
            (self._mirror_a_project, 0.0),
            *[(self._ask_for_what_is_cached, 0.2)] * 4,
            (self._ask_for_nothing, 2.0),
            (self._upload, 3.0),
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
        """Nobody asks: the server is away."""
        self._may_ask.clear()
        for _ in self._threads[:-1]:  # upstream's trouble goes on
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
            if self._over.wait(_FAULT_EVERY - _FAULT_SECONDS):
                return
            self.upstream.page_fault = fault
            self._over.wait(_FAULT_SECONDS)
            self.upstream.heal()

    def _mirror_a_project(self) -> None:
        """A project that nobody has asked for, and one wheel of it."""
        name = numbered(next(self._new))
        page = f"/root/dev/+simple/{name}/"
        answer = self._get(page)
        if not self.counts.count("cold", page, answer, 200, VERSIONS):
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
            self.counts.count("cached pages", page, self._get(page), 200, VERSIONS)
            self.counts.count("cached wheels", path, self._get(path), 200)

    def _ask_for_nothing(self) -> None:
        page = f"/root/dev/+simple/not-there-{time.monotonic_ns()}/"
        self.counts.count("unknown names", page, self._get(page), 404)

    def _upload(self) -> None:
        number = next(self._uploads)
        wheel = packages.wheel(f"private-{number % 20:02d}", f"1.{number}", number)
        fields = {":action": "file_upload", "metadata_version": "2.1", "filetype": "bdist_wheel", "pyversion": "py3"}
        body, kind = form({**fields, "name": wheel.name, "version": wheel.version}, wheel.filename, wheel.content)
        headers = {"Content-Type": kind, "X-Devpi-Auth": self._token}
        self.counts.count("uploads", wheel.filename, self._ask("POST", "/root/dev/", headers, body), 200)
        page = f"/root/dev/+simple/{wheel.name}/"
        self.counts.count("private pages", page, self._get(page), 200, 1)

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


_KINDS = (
    *("cold", "wheels", "cached pages", "cached wheels", "unknown names", "uploads", "private pages", "logins"),
    *("listings", "probes"),
)


def ask(port: int, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> Answer:
    """One request, over a new connection."""
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
    """The body and the content type of an upload, as twine sends it."""
    parts = [f'--BOUND\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()]
    head = f'--BOUND\r\nContent-Disposition: form-data; name="content"; filename="{filename}"\r\n\r\n'
    body = "".join([*parts, head]).encode() + content + b"\r\n--BOUND--\r\n"
    return body, "multipart/form-data; boundary=BOUND"


def _resolved(page: str, link: str) -> str:
    """The path that a relative link of a page leads to."""
    parts = page.rstrip("/").split("/")
    path = link.partition("#")[0]
    while path.startswith("../"):
        path, parts = path.removeprefix("../"), parts[:-1]
    return path if path.startswith("/") else "/".join([*parts, path])


def point_at(port: int, upstream: Upstream) -> str:
    """Have root/pypi mirror `upstream`, and make root/dev above it; a login token of root's, as X-Devpi-Auth."""
    said = _api(port, "POST", "/+login", {}, {"user": "root", "password": PASSWORD})
    token = base64.b64encode(f"root:{said['result']['password']}".encode()).decode()
    auth = {"X-Devpi-Auth": token}
    _api(port, "PATCH", "/root/pypi", auth, [f"mirror_url={upstream.url}"])
    _api(port, "PUT", "/root/dev", auth, {"bases": ["root/pypi"], "volatile": True})
    return token


def _api(port: int, method: str, path: str, headers: dict[str, str], content: object) -> dict[str, Any]:
    given = {"Content-Type": "application/json", "Accept": "application/json", **headers}
    answer = ask(port, method, path, given, json.dumps(content).encode())
    if answer.status != 200:
        raise Failed(f"{method} {path} said {answer.status}: {answer.body[:200]!r}")
    said: dict[str, Any] = json.loads(answer.body)
    return said


def run(folder: Path, seconds: float, limit_bytes: int = LIMIT, flags: tuple[str, ...] = ()) -> Values:
    """Prepare without any registry in reach, then `seconds` of load, with a restart in the middle."""
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(Upstream(size=PYPI_NAMES, versions=VERSIONS, delay=0.03))
        limit = stack.enter_context(MemoryLimit(limit_bytes, CPUS))
        with Ours(folder, prefix=limit.prefix, flags=flags, alone=_OFFLINE) as first:
            first.ready()
            token = point_at(first.devpi_port, upstream)
        watch = stack.enter_context(_Watch(limit))
        ours = stack.enter_context(Ours(folder, prefix=limit.prefix, flags=flags, alone=()))
        ours.ready()
        load = Load(ours, token, upstream)
        with load.running():
            _for_a_while(ours, watch, load, seconds / 2)
            with load.paused():
                ours.end()
                ours = load.ours = stack.enter_context(Ours(folder, prefix=limit.prefix, flags=flags, alone=()))
                ours.ready()
            _for_a_while(ours, watch, load, seconds / 2)
        return {
            "kills": limit.kills(),
            "peak": limit.peak() / MIB,
            **watch.most,
            "ready": float(get(ours.port, "/readyz")[0] == 200),
            **{kind: float(load.counts.right[kind]) for kind in _KINDS},
            "later": float(load.counts.later),
            "wrong": float(len(load.counts.wrong)),
        }


def _for_a_while(ours: Ours, watch: _Watch, load: Load, seconds: float) -> None:
    """Watch for so long. Raises `Failed` where devpi-server, or all of it, ends."""
    devpi, until, told = ours.devpi_pid, time.monotonic() + seconds, time.monotonic()
    while time.monotonic() < until:
        if not ours.runs or not sampling.is_there(devpi):
            raise Failed(f"it ended: {ours.last_words()}")
        watch.look(ours.pid, devpi)
        if time.monotonic() - told >= 60:
            told = time.monotonic()
            at = ", ".join(f"{name} {value:.0f}" for name, value in watch.now.items())
            counts = load.counts
            print(f"    {time.strftime('%H:%M:%S')} MiB now: {at}; {dict(counts.right)}, later {counts.later}, "
                  f"wrong {len(counts.wrong)}", file=sys.stderr, flush=True)  # fmt: skip
        time.sleep(0.5)


class _Watch:
    """The most memory that was seen; for `with`."""

    def __init__(self, limit: MemoryLimit) -> None:
        self._limit = limit
        self.now: dict[str, float] = {}
        self.most: dict[str, float] = {}

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def look(self, sidecar: int, devpi: int) -> None:
        """Once more."""
        looks: dict[str, Callable[[], int]] = {
            "anonymous": self._limit.anonymous,
            "working set": self._limit.working_set,
            "devpi": lambda: sampling.rss(devpi),
            "sidecar": lambda: sampling.rss(sidecar),
        }
        for name, look in looks.items():
            with contextlib.suppress(OSError, Failed):
                self.now[name] = look() / MIB
                self.most[name] = max(self.most.get(name, 0.0), self.now[name])


COMPARISONS = (Comparison("soak", "An hour with a mirror as large as PyPI, in 256 MiB and half a core", soak),)
