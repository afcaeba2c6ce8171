"""A mirror of an index as large as PyPI, under the limits of a small container: `soak`; its memory: `mirror-memory`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.limits import MemoryLimit
from bench.mixed import FAULT_EVERY, FAULT_SECONDS, KINDS, VERSIONS, Load, point_at
from bench.processes import Ours, get
from bench.report import Reach, Result, Row
from bench.rounds import Bench, Comparison, Failed, Values
from testbed import sampling
from testbed.upstream import PYPI_NAMES, Upstream, numbered

MIB = sampling.MIB
LIMIT = 256 * MIB
"""As in docs/operations.md and the manifests for a server with a mirror."""
CPUS = 0.5
_OFFLINE = ("--offline-mode",)
_SIDECAR = "devpi-sidecar"


def soak(bench: Bench) -> Result:
    """An hour of mixed load with a mirror and one restart: no process is killed, and no answer is wrong."""
    minutes = min(bench.minutes, 2.0) if bench.quick else bench.minutes
    with MemoryLimit(LIMIT, CPUS) as limit:
        how = limit.how
    outcome = bench.in_turn({_SIDECAR: lambda folder: run(folder, minutes * 60)}, rounds=1)

    def row(what: str, unit: str, quantity: str, reach: Reach | None = None) -> Row:
        return Row(what, unit, None, outcome.series(_SIDECAR, quantity), reach)

    most = Reach("worst", "≤", LIMIT / MIB)
    return Result(
        [
            row("processes killed for lack of memory", "", "kills", Reach("worst", "≤", 0)),
            row("peak memory charged, page cache included, which fills the limit", "MiB", "peak"),
            row("peak without page cache (heaps)", "MiB", "anonymous", most),
            row("peak working set, as in Kubernetes", "MiB", "working set"),
            row("devpi-server's peak RSS", "MiB", "devpi"),
            row("the sidecar's peak RSS", "MiB", "sidecar"),
            row("ready at the end (1 = yes)", "", "ready", Reach("worst", "≥", 1)),
            row("projects mirrored", "", "cold"),
            *(row(f"{what}: correct answers", "", what) for what in KINDS if what != "cold"),
            row("answers “try again later” (502, 503 with Retry-After)", "", "later"),
            row("wrong answers: 404 or no files for an existing project, another status, or no answer", "", "wrong",
                Reach("worst", "≤", 0)),
        ],
        [
            f"{minutes:.0f} minutes, devpi-sidecar only, {LIMIT // MIB} MiB without swap and {CPUS} CPU by {how}; "
            "the container is restarted in the middle.",
            f"Upstream: {PYPI_NAMES:,} names, pages of {VERSIONS} files, 30 ms for each answer, on this machine; "
            f"every {FAULT_EVERY:.0f} s it may fail for {FAULT_SECONDS:.0f} s (429, 500, silence).",
            "Load: new projects and a wheel of each as fast as one client can, four clients with cached projects, "
            "unknown names, uploads, logins, private pages, the listing, `/readyz`, `/metrics`.",
        ],
    )  # fmt: skip


def run(folder: Path, seconds: float) -> Values:
    """Prepare without access to a registry, then `seconds` of load with a restart in the middle. Raises `Failed`."""
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(Upstream(size=PYPI_NAMES, versions=VERSIONS, delay=0.03))
        limit = stack.enter_context(MemoryLimit(LIMIT, CPUS))
        with Ours(folder, prefix=limit.prefix, alone=_OFFLINE) as first:
            first.ready()
            token = point_at(first.devpi_port, upstream)
        watch = stack.enter_context(_Watch(limit))
        ours = stack.enter_context(Ours(folder, prefix=limit.prefix, alone=()))
        ours.ready()
        load = Load(ours, token, upstream)
        with load.running():
            _for_a_while(ours, watch, load, seconds / 2)
            with load.paused():
                ours.end()
                ours = load.ours = stack.enter_context(Ours(folder, prefix=limit.prefix, alone=()))
                ours.ready()
            _for_a_while(ours, watch, load, seconds / 2)
        return {
            "kills": limit.kills(),
            "peak": limit.peak() / MIB,
            **watch.most,
            "ready": float(get(ours.port, "/readyz")[0] == 200),
            **{kind: float(load.counts.right[kind]) for kind in KINDS},
            "later": float(load.counts.later),
            "wrong": float(len(load.counts.wrong)),
        }


def _for_a_while(ours: Ours, watch: _Watch, load: Load, seconds: float) -> None:
    """Watch for so long. Raises `Failed` if devpi-server or the container exits."""
    devpi, until, reported = ours.devpi_pid, time.monotonic() + seconds, time.monotonic()
    while time.monotonic() < until:
        if not ours.runs or not sampling.is_there(devpi):
            raise Failed(f"it exited; processes killed for lack of memory: {watch.kills()}; {ours.last_words()}")
        watch.look(ours.pid, devpi)
        if time.monotonic() - reported >= 60:
            reported = time.monotonic()
            at = ", ".join(f"{name} {value:.0f}" for name, value in watch.now.items())
            counts = load.counts
            print(f"    {time.strftime('%H:%M:%S')} MiB now: {at}; {dict(counts.right)}, later {counts.later}, "
                  f"wrong {len(counts.wrong)}", file=sys.stderr, flush=True)  # fmt: skip
        time.sleep(0.5)


def mirror_memory(bench: Bench) -> Result:
    """devpi-server's memory with devpi's default cache, with ours, and without the list of a large upstream."""
    uploads, projects = (100, 100) if bench.quick else (1000, 500)

    def way(*flags: str, project_list: bool = True) -> Callable[[Path], Values]:
        return lambda folder: _memory_of(folder, flags, uploads, projects, project_list=project_list)

    outcome = bench.in_turn(
        {
            _DEVPIS: way("--keyfs-cache-size", "10000"),
            _OURS: way(),
            _SMALL: way("--keyfs-cache-size", "50"),
            _NO_LIST: way(project_list=False),
        }
    )

    def row(what: str, unit: str, quantity: str, ours: str = _OURS, reach: Reach | None = None) -> Row:
        return Row(what, unit, outcome.series(_DEVPIS, quantity), outcome.series(ours, quantity), reach)

    return Result(
        [
            row("devpi-server's RSS, idle", "MiB", "idle"),
            row(f"after {uploads:,} uploads", "MiB", "uploaded", reach=Reach("ratio", "≤", 0.8)),
            row(f"then with {projects:,} projects mirrored", "MiB", "mirrored", reach=Reach("ratio", "≤", 0.8)),
            row("the same with `--keyfs-cache-size 50`", "MiB", "mirrored", _SMALL),
            row("the same without the upstream's list (`mirror_no_project_list`)", "MiB", "mirrored", _NO_LIST),
            row("simple pages of these projects, again", "1/s", "pages"),
            row("the same with `--keyfs-cache-size 50`", "1/s", "pages", _SMALL),
        ],
        [
            "Plain devpi-server: the container with devpi's default `--keyfs-cache-size 10000`; devpi-sidecar: without "
            "the flag.",
            f"Uploads of 4 kB to one index, 20 projects; mirrored projects of {VERSIONS} files, a page of each; "
            f"upstream has {PYPI_NAMES:,} names. One client requests each page once more.",
        ],
    )  # fmt: skip


_DEVPIS, _OURS, _SMALL, _NO_LIST = "10000", _SIDECAR, "50", "without the list"


def _memory_of(folder: Path, flags: tuple[str, ...], uploads: int, projects: int, *, project_list: bool) -> Values:
    with Upstream(size=PYPI_NAMES, versions=VERSIONS) as upstream:
        with Ours(folder, flags=flags, alone=_OFFLINE) as first:
            first.ready()
            token = point_at(first.devpi_port, upstream, project_list=project_list)
        with Ours(folder, flags=flags, alone=()) as ours:
            ours.ready()
            load = Load(ours, token, upstream)
            values = {"idle": sampling.rss(ours.devpi_pid) / MIB}
            for _ in range(uploads):
                load.upload()
            values["uploaded"] = sampling.rss(ours.devpi_pid) / MIB
            pages = [f"/root/dev/+simple/{numbered(number)}/" for number in range(projects)]
            for page in pages:
                load.page("cold", page)
            values["mirrored"] = sampling.rss(ours.devpi_pid) / MIB
            began = time.monotonic()
            for page in pages:
                load.page("cached pages", page)
            values["pages"] = len(pages) / (time.monotonic() - began)
            if load.counts.wrong or load.counts.later:
                raise Failed(f"{load.counts.later} and {load.counts.wrong[:3]}")
            return values


class _Watch:
    """The peak memory of all samples; for `with`."""

    def __init__(self, limit: MemoryLimit) -> None:
        self._limit = limit
        self.now: dict[str, float] = {}
        self.most: dict[str, float] = {}

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def kills(self) -> int:
        """Return how many processes the limit has killed."""
        return self._limit.kills()

    def look(self, sidecar: int, devpi: int) -> None:
        """Sample once."""
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


COMPARISONS = (
    Comparison("soak", "An hour with a mirror as large as PyPI, in 256 MiB and half a core", soak),
    Comparison("mirror-memory", "devpi-server's memory, and its cache of keys", mirror_memory),
)
