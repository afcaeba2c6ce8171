"""The cost of probes: `probe-latency`, `healthcheck`, `idle`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import inputs
from bench.processes import BIN, Ours, Running, get, polled
from bench.report import Reach, Result, Row, Series
from bench.rounds import ROOT, Bench, Comparison, Failed, Values, Way
from testbed import sampling

RATE = 500
_OURS, _BY_HAND = "devpi-sidecar", "plain devpi-server"
_URLLIB = (
    "import sys, urllib.request; "
    "sys.exit(urllib.request.urlopen('http://127.0.0.1:{port}/readyz', timeout=3).status != 200)"
)


class Load:
    """One run of the load generator, in a separate process."""

    def __init__(self, *arguments: str | int | float) -> None:
        command = [sys.executable, "-m", "bench.load", *map(str, arguments)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def result(self) -> dict[str, Any]:
        """Wait until it exits, and return what it measured. Raises `Failed`."""
        out, _ = self._process.communicate()
        if self._process.returncode:
            raise Failed(f"the load generator exited with code {self._process.returncode}")
        said: dict[str, Any] = json.loads(out)
        return said

    def stop(self) -> None:
        """Kill it if it still runs."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.communicate()


def probe_latency(bench: Bench) -> Result:
    """/readyz at 500 requests a second."""
    export = inputs.export(bench.inputs, inputs.SMALL)
    idle, busy = (5.0, 10.0) if bench.quick else (20.0, 60.0)
    outcome = bench.in_turn({_OURS: _probed(export, idle, busy)})

    def rows(kind: str, name: str, limit: float) -> list[Row]:
        def of(quantity: str) -> Series:
            return outcome.series(_OURS, f"{name} {quantity}")

        return [
            Row(f"{kind}: p50", "ms", None, of("p50")),
            Row(f"{kind}: p99", "ms", None, of("p99"), Reach("median", "≤", limit)),
            Row(f"{kind}: maximum", "ms", None, of("max")),
            Row(f"{kind}: answers other than 200, or none", "", None, of("bad"), Reach("worst", "≤", 0)),
            Row(f"{kind}: the generator's own delay, p99", "ms", None, of("late")),
        ]

    return Result(
        [
            *rows("devpi idle", "idle", 5),
            *rows("devpi idle, kept connections", "kept", 5),
            *rows("60 clients at devpi", "busy", 10),
            Row("60 clients at devpi: its answers", "1/s", None, outcome.series(_OURS, "clients rate")),
            Row("60 clients at devpi: its p99", "ms", None, outcome.series(_OURS, "clients p99")),
        ],
        [
            f"{RATE} requests per second at fixed times, {idle:.0f} s idle and {busy:.0f} s busy, over loopback, from "
            "a separate process; each over a new connection, as kubelet does it, except in the rows with kept "
            "connections.",
            "Measured from the time at which a request was due, so the generator's own delay (until it was sent) and "
            "every stall count.",
            "The clients, in a third process, request simple pages one after the other without a pause. All processes "
            "share the machine's CPUs.",
        ],
    )


def _probed(export: inputs.Export, idle: float, busy: float) -> Way:
    def run(folder: Path) -> Values:
        with Ours(folder, init_dir=export.as_directory) as ours:
            ours.ready()
            time.sleep(3)
            values = _latency("idle", _probe(ours, idle))
            values |= _latency("kept", _probe(ours, idle, "--keep-alive"))
            clients = Load("closed", "--clients", 60, "--seconds", busy + 3, ours.devpi_port, *simple_pages(export))
            try:
                time.sleep(1.5)
                values |= _latency("busy", _probe(ours, busy))
                said = clients.result()
            finally:
                clients.stop()
            return values | {"clients rate": rate(said), "clients p99": said["p99"] * 1000}

    return run


def _probe(ours: Ours, seconds: float, *options: str) -> dict[str, Any]:
    return Load("open", "--rate", RATE, "--seconds", seconds, *options, ours.port, "/readyz").result()


def _latency(name: str, said: dict[str, Any]) -> dict[str, float]:
    bad = sum(count for outcome, count in said["outcomes"].items() if outcome != "200")
    times = {quantity: said[quantity] * 1000 for quantity in ("p50", "p99", "max")} | {"late": said["late_p99"] * 1000}
    return {f"{name} {quantity}": value for quantity, value in {**times, "bad": bad}.items()}


def rate(said: dict[str, Any]) -> float:
    """Return answers per second. Raises `Failed` if any is not 200."""
    if others := {outcome: count for outcome, count in said["outcomes"].items() if outcome != "200"}:
        raise Failed(f"answers other than 200: {others}")
    return float(said["outcomes"]["200"] / said["seconds"])


def simple_pages(export: inputs.Export) -> list[str]:
    """The paths of all projects' simple pages."""
    spec = export.spec
    return [f"/{spec.index_of(number)}/+simple/{spec.project_name(number)}/" for number in range(spec.projects)]


def healthcheck(bench: Bench) -> Result:
    """`sidecar healthcheck`, compared with Python and urllib."""
    runs = 5 if bench.quick else 20
    with bench.folder() as folder, Ours(folder) as ours:
        ours.ready()
        ways: dict[str, Way] = {
            _BY_HAND: _commands(runs, [sys.executable, "-c", _URLLIB.format(port=ours.port)], {}),
            _OURS: _commands(runs, [BIN / "sidecar", "healthcheck"], {"SIDECAR_RUNTIME_DIR": str(ours.runtime)}),
        }
        outcome = bench.in_turn(ways)
    return Result(
        [
            Row("elapsed time", "ms", outcome.series(_BY_HAND, "wall"), outcome.series(_OURS, "wall"),
                Reach("ratio", "≤", 0.5)),
            Row("CPU", "ms", outcome.series(_BY_HAND, "cpu"), outcome.series(_OURS, "cpu"), Reach("median", "≤", 40)),
            Row("CPU, as a ratio", "ms", outcome.series(_BY_HAND, "cpu"), outcome.series(_OURS, "cpu"),
                Reach("ratio", "≤", 0.5)),
        ],
        [
            f"Each value is the median of {runs} calls. Plain devpi-server: `python -c` with "
            "`urllib.request.urlopen(…/readyz)`. devpi-sidecar: the command `sidecar healthcheck` of the virtual "
            "environment.",
        ],
    )  # fmt: skip


def _commands(runs: int, command: Sequence[str | Path], environ: dict[str, str]) -> Way:
    def run(folder: Path) -> Values:
        walls: list[float] = []
        cpus: list[float] = []
        for _ in range(runs):
            with Running(command, folder, environ) as process:
                walls.append(_wait(process))
            cpus.append(process.cpu_in_all())
        return {"wall": Series(tuple(walls)).median * 1000, "cpu": Series(tuple(cpus)).median * 1000}

    return run


def _wait(process: Running) -> float:
    """As `Running.wait`, without the 5 ms of its polling."""
    pid, status, usage = os.wait4(process.pid, 0)
    assert pid == process.pid
    process.ended(status, usage)
    seconds = time.monotonic() - process.started
    if status:
        raise Failed(f"it exited with code {os.waitstatus_to_exitcode(status)}: {process.last_words()}")
    return seconds


def idle(bench: Bench) -> Result:
    """The sidecar with one probe per second, then with scrapes, too."""
    seconds = 5.0 if bench.quick else 30.0

    def run(folder: Path) -> Values:
        with Ours(folder) as ours:
            ours.ready()
            alone = _at_rest(ours, seconds, {"/readyz": 1.0})
            get(ours.port, "/metrics")  # the first scrape imports what the others need
            scraped = _at_rest(ours, seconds, {"/readyz": 1.0, "/metrics": 15.0})
            return alone | {f"scraped {quantity}": value for quantity, value in scraped.items()}

    outcome = bench.in_turn({_OURS: run})

    def row(what: str, unit: str, quantity: str, reach: Reach | None = None) -> Row:
        return Row(what, unit, None, outcome.series(_OURS, quantity), reach)

    return Result(
        [
            row("CPU of one core", "%", "cpu", Reach("median", "≤", 0.5)),
            row("wake-ups", "1/s", "wakes"),
            row("CPU of one core, with scrapes", "%", "scraped cpu", Reach("median", "≤", 0.5)),
            row("wake-ups, with scrapes", "1/s", "scraped wakes"),
        ],
        [
            f"The sidecar's process only, for {seconds:.0f} s from 5 s after it was ready; `/readyz` is requested once "
            "a second over a new connection, and in the last two rows `/metrics` every 15 s. These requests are "
            "included.",
        ],
    )


def _at_rest(ours: Ours, seconds: float, polls: Mapping[str, float]) -> dict[str, float]:
    """CPU in percent and wake-ups per second of the sidecar during `polls` (path → seconds between two requests)."""
    with ExitStack() as stack:
        answers = [stack.enter_context(polled(ours.port, path, every)) for path, every in polls.items()]
        time.sleep(5)
        began, cpu, woken = time.monotonic(), sampling.own_cpu(ours.pid), sampling.wakes(ours.pid)
        time.sleep(seconds)
        took = time.monotonic() - began
        used = sampling.own_cpu(ours.pid) - cpu
        wakes = sampling.wakes(ours.pid) - woken
    statuses = {status for each in answers for status in each}
    if statuses != {200}:
        raise Failed(f"the answers were {sorted(statuses)}")
    return {"cpu": used / took * 100, "wakes": wakes / took}


COMPARISONS = (
    Comparison("probe-latency", f"`/readyz` at {RATE} requests a second", probe_latency),
    Comparison("healthcheck", "`sidecar healthcheck`", healthcheck),
    Comparison("idle", "The idle sidecar", idle),
)
