"""Clients of a mirror: first requests, pip and uv, a stuck upstream: `mirror-first`, `mirror-install`, `mirror-stuck`.

Plain devpi-server and devpi-sidecar have the same index root/pypi, which keeps the list of its upstream's projects, and
root/dev, which inherits from it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.limits import MemoryLimit
from bench.mixed import Answer, ask, form
from bench.processes import BIN, CHEAP, PASSWORD, ByHand, Ours, Running, devpi_init, free_ports
from bench.report import Reach, Result, Row, percentile
from bench.rounds import Bench, Comparison, Failed, Outcome, Values
from testbed import installs, packages, sampling
from testbed.upstream import JSON, PYPI_NAMES, Upstream, numbered

MIB = sampling.MIB
LIMIT, CPUS = 256 * MIB, 0.5
ROOMY = 1024 * MIB
"""For plain devpi-server, whose list of names would not fit into `LIMIT`."""
LATENCY = (0.03, 0.08)
VERSIONS = 40
FIRST = 6
PACKAGES = 60
OUTAGE = 4.0
STUCK = 60
"""Clients that wait for a stuck upstream, more than devpi-server has threads."""
_BY_HAND, _SIDECAR = "plain devpi-server", "devpi-sidecar"
_PHASES = ("after a start", "after a restart", "while the list is refreshed", f"begun with an outage of {OUTAGE:.0f} s")


def mirror_first(bench: Bench) -> Result:
    """The first requests for names that are not cached, after a start and after a restart."""
    names, watched = (2000, 3.0) if bench.quick else (PYPI_NAMES, 30.0)
    outcome = _both(bench, lambda way, folder: _first(way, folder, names, watched))

    def row(what: str, unit: str, quantity: str, reach: Reach | None = None) -> Row:
        return _row(outcome, what, unit, quantity, reach)

    all_right = Reach("worst", "≥", FIRST)
    return Result(
        [
            row(f"right answers to the first {FIRST} requests after a start", "", "right at first", all_right),
            row("seconds for them", "s", "seconds at first", Reach("worst", "≤", 2)),
            row(f"right answers to the first {FIRST} requests after a restart", "", "right again", all_right),
            row("seconds for them", "s", "seconds again", Reach("worst", "≤", 2)),
            row("peak memory charged, page cache included", "MiB", "peak", Reach("worst", "≤", 230)),
            row("peak without page cache (heaps)", "MiB", "anonymous"),
            row("processes killed for lack of memory", "", "kills", Reach("worst", "≤", 0)),
        ],
        [
            f"{LIMIT // MIB} MiB without swap and {CPUS} CPU; upstream has {names:,} names, pages of {VERSIONS} files, "
            f"{LATENCY[0] * 1000:.0f} to {LATENCY[1] * 1000:.0f} ms for each answer, outside of the limit.",
            f"One client, one request after the other; right: 200 with all files. After each six requests, memory is "
            f"watched for {watched:.0f} s, so that the list has arrived.",
        ],
    )  # fmt: skip


def _first(way: str, folder: Path, names: int, watched: float) -> Values:
    values: dict[str, float] = {}
    with Upstream(size=names, versions=VERSIONS, delay=LATENCY) as upstream, MemoryLimit(LIMIT, CPUS) as limit:
        with _heaps(limit) as heaps:
            for turn, what in enumerate(("at first", "again")):
                with _serving(way, folder, limit.prefix, new=not turn) as (_, port):
                    if not turn:
                        _make_indexes(port, upstream)
                    began = time.monotonic()
                    pages = [_page(port, numbered(number * 300 + turn)) for number in range(FIRST)]
                    values[f"seconds {what}"] = time.monotonic() - began
                    values[f"right {what}"] = sum(map(_is_right, pages))
                    time.sleep(watched)
        return {**values, "peak": limit.peak() / MIB, "anonymous": max(heaps) / MIB, "kills": limit.kills()}


def mirror_install(bench: Bench) -> Result:
    """pip and uv install a tree of packages at the first try."""
    count, names = (8, 2000) if bench.quick else (PACKAGES, PYPI_NAMES)
    clients = [client for client in installs.CLIENTS if installs.found(client) is not None]
    outcome = _both(bench, lambda way, folder: _install(way, folder, count, names, clients))
    rows = []
    for client in clients:
        for phase in _PHASES:
            what = f"{client}, {phase}"
            rows.append(_row(outcome, f"{what}: installed (1 = yes)", "", what, Reach("worst", "≥", 1)))
            rows.append(_row(outcome, f"{what}: seconds", "s", f"{what}, seconds"))
    rows.append(_row(outcome, "processes killed for lack of memory", "", "kills", Reach("worst", "≤", 0)))
    return Result(
        rows,
        [
            f"A tree of {count} packages with dependencies, another one each time, into an empty folder and without a "
            f"cache; {names:,} names, latency as in `mirror-first`. {CPUS} CPU and {LIMIT // MIB} MiB for the sidecar; "
            f"{CPUS} CPU and {ROOMY // MIB} MiB for plain devpi-server, see `mirror-first` for less.",
            "A refresh: the list expires with each request (mirror_cache_expiry=0).",
            f"Not installed here, and left out: {', '.join(set(installs.CLIENTS) - set(clients)) or 'nothing'}.",
        ],
    )


def _install(way: str, folder: Path, count: int, names: int, clients: list[str]) -> Values:
    values: dict[str, float] = {}
    prefixes = {(client, phase): f"tree-{client}-{phase}" for client in clients for phase in range(len(_PHASES))}
    projects: dict[str, Any] = {}
    for prefix in prefixes.values():
        projects |= installs.tree(count, prefix=prefix)
    memory = LIMIT if way == _SIDECAR else ROOMY
    with Upstream(size=names, projects=projects, delay=LATENCY) as upstream, MemoryLimit(memory, CPUS) as limit:

        def install(port: int, client: str, phase: int) -> None:
            prefix, what = prefixes[client, phase], f"{client}, {_PHASES[phase]}"
            began = time.monotonic()
            values[what] = float(_installs(port, client, folder, count, prefix))
            values[f"{what}, seconds"] = time.monotonic() - began

        for client in clients:  # each has a start of its own
            state = folder / client
            state.mkdir()
            for phase in range(2):
                with _serving(way, state, limit.prefix, new=phase == 0) as (_, port):
                    auth = _make_indexes(port, upstream) if phase == 0 else _login(port)
                    install(port, client, phase)
                    if phase == 0:
                        continue
                    _call(port, "PATCH", "/root/pypi", auth, ["mirror_cache_expiry=0"])
                    install(port, client, 2)
                    upstream.refuse()
                    end = threading.Timer(OUTAGE, upstream.heal)
                    end.start()
                    install(port, client, 3)
                    end.join()
        return {**values, "kills": limit.kills()}


def _installs(port: int, client: str, folder: Path, count: int, prefix: str) -> bool:
    target = folder / f"target-{prefix}"
    index = f"http://127.0.0.1:{port}/root/dev/+simple/"
    try:
        done = subprocess.run(
            installs.command(client, index, target, installs.top(prefix)),
            env=installs.environ(folder),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    if done.returncode:
        print(f"    {client} {prefix}: {(done.stderr or done.stdout).strip()[-300:]}", flush=True)
    return done.returncode == 0 and not installs.missing(target, count, prefix)


def mirror_stuck(bench: Bench) -> Result:
    """An upstream that accepts connections and never answers."""
    seconds = 8.0 if bench.quick else 60.0
    outcome = _both(bench, lambda way, folder: _stuck(way, folder, seconds))

    def row(what: str, unit: str, quantity: str, reach: Reach | None = None) -> Row:
        return _row(outcome, what, unit, quantity, reach)

    return Result(
        [
            row("cached pages, expired, after the third failure: p99", "s", "cached p99", Reach("worst", "≤", 1)),
            row("cached pages that were wrong", "", "cached wrong", Reach("worst", "≤", 0)),
            row(f"private pages beside {STUCK} clients that wait: p99", "s", "private p99", Reach("worst", "≤", 1)),
            row("private pages that were wrong", "", "private wrong", Reach("worst", "≤", 0)),
            row("from upstream's recovery to the first new page", "s", "recovery", Reach("worst", "≤", 15)),
        ],
        [
            f"For {seconds:.0f} s each, one client asks for a cached page or a private one again as soon as it has the "
            "answer; no limit of memory or CPU; mirror_cache_expiry=0.",
        ],
    )


def _stuck(way: str, folder: Path, seconds: float) -> Values:
    with Upstream(size=1000, versions=VERSIONS) as upstream, _serving(way, folder, [], new=True) as (_, port):
        auth = _make_indexes(port, upstream)
        cached = [numbered(number) for number in range(10)]
        for name in cached:
            if not _is_right(_page(port, name)):
                raise Failed(f"{name} can't be mirrored")
        _upload(port, auth)
        _call(port, "PATCH", "/root/pypi", auth, ["mirror_cache_expiry=0"])
        upstream.swallow()
        for number in range(3):
            _page(port, numbered(100 + number))
        times, wrong = _repeated(seconds, lambda turn: _is_right(_page(port, cached[turn % len(cached)])))
        over = threading.Event()

        def wait(number: int) -> None:
            while not over.is_set():
                _page(port, numbered(200 + number))
                over.wait(0.2)

        waiting = [threading.Thread(target=wait, args=(number,), daemon=True) for number in range(STUCK)]
        for thread in waiting:
            thread.start()
        private, wrong_private = _repeated(seconds, lambda _: _page(port, "private").status == 200)
        over.set()
        for thread in waiting:
            thread.join()
        upstream.heal()
        began = time.monotonic()
        while not _is_right(_page(port, numbered(900))):
            if time.monotonic() - began > 120:
                raise Failed("no page 120 s after upstream's recovery")
            time.sleep(0.1)
        return {
            "cached p99": percentile(sorted(times), 0.99),
            "cached wrong": wrong,
            "private p99": percentile(sorted(private), 0.99),
            "private wrong": wrong_private,
            "recovery": time.monotonic() - began,
        }


def _repeated(seconds: float, right: Callable[[int], bool]) -> tuple[list[float], int]:
    """Return the times of all requests within so many seconds, at least one, and how many were wrong."""
    times: list[float] = []
    wrong, until = 0, time.monotonic() + seconds
    while not times or time.monotonic() < until:
        began = time.monotonic()
        wrong += not right(len(times))
        times.append(time.monotonic() - began)
    return times, wrong


# --- both ways --------------------------------------------------------------------------------------------------------


def _both(bench: Bench, run: Callable[[str, Path], Values]) -> Outcome:
    return bench.in_turn({way: lambda folder, way=way: run(way, folder) for way in (_BY_HAND, _SIDECAR)})  # type: ignore[misc]


def _row(outcome: Outcome, what: str, unit: str, quantity: str, reach: Reach | None = None) -> Row:
    return Row(what, unit, outcome.series(_BY_HAND, quantity), outcome.series(_SIDECAR, quantity), reach)


@contextlib.contextmanager
def _serving(way: str, folder: Path, prefix: list[str], *, new: bool) -> Iterator[tuple[Running, int]]:
    """Run a server until it is ready; yield it with devpi-server's port. Without root/pypi, it has no registry."""
    if way == _SIDECAR:
        with Ours(folder, prefix=prefix, alone=("--no-root-pypi",), flags=CHEAP) as ours:
            ours.ready()
            yield ours, ours.devpi_port
        return
    (port,) = free_ports(1)
    state = folder / "serverdir"
    listen = ["--host", "127.0.0.1", "--port", str(port)]
    serve: list[str | Path] = [BIN / "devpi-server", "--serverdir", state, *listen, "--restrict-modify", "root", *CHEAP]
    with ByHand(folder, *([devpi_init(state)] if new else []), serve, prefix=prefix) as bare:
        bare.first_200(port, "/+api")
        yield bare, port


@contextlib.contextmanager
def _heaps(limit: MemoryLimit) -> Iterator[list[int]]:
    """Sample the bytes without page cache."""
    samples, over = [0], threading.Event()

    def run() -> None:
        while not over.wait(0.05):
            samples.append(limit.anonymous())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def _make_indexes(port: int, upstream: Upstream) -> dict[str, str]:
    """Create root/pypi with its list, and root/dev; return root's login."""
    auth = _login(port)
    mirror = {"type": "mirror", "mirror_url": upstream.url, "mirror_no_project_list": False, "volatile": True}
    _call(port, "PUT", "/root/pypi", auth, mirror)
    _call(port, "PUT", "/root/dev", auth, {"bases": ["root/pypi"], "volatile": True})
    return auth


def _login(port: int) -> dict[str, str]:
    token = _call(port, "POST", "/+login", {}, {"user": "root", "password": PASSWORD})["result"]["password"]
    return {"X-Devpi-Auth": base64.b64encode(f"root:{token}".encode()).decode()}


def _upload(port: int, auth: dict[str, str]) -> None:
    wheel = packages.wheel("private", "1.0", 1)
    fields = {":action": "file_upload", "metadata_version": "2.1", "filetype": "bdist_wheel", "pyversion": "py3"}
    body, kind = form({**fields, "name": wheel.name, "version": wheel.version}, wheel.filename, wheel.content)
    answer = ask(port, "POST", "/root/dev/", {"Content-Type": kind, **auth}, body)
    if answer.status != 200:
        raise Failed(f"the upload answered {answer.status}")


def _call(port: int, method: str, path: str, auth: dict[str, str], content: object) -> dict[str, Any]:
    headers = {"Content-Type": "application/json", "Accept": "application/json", **auth}
    answer = ask(port, method, path, headers, json.dumps(content).encode())
    if answer.status != 200:
        raise Failed(f"{method} {path} answered {answer.status}: {answer.body[:200]!r}")
    said: dict[str, Any] = json.loads(answer.body)
    return said


def _page(port: int, project: str) -> Answer:
    return ask(port, "GET", f"/root/dev/+simple/{project}/", {"Accept": JSON})


def _is_right(answer: Answer) -> bool:
    return answer.status == 200 and answer.body.count(b'"filename"') == VERSIONS


COMPARISONS = (
    Comparison(
        "mirror-first", "The first pages of a mirror as large as PyPI, in 256 MiB and half a core", mirror_first
    ),
    Comparison(
        "mirror-install", "pip and uv install a tree of packages through a mirror at the first try", mirror_install
    ),
    Comparison("mirror-stuck", "A mirror whose upstream never answers", mirror_stuck),
)
