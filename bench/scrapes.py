"""The cost of a scrape: `scrape`."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from pathlib import Path

from bench import inputs
from bench.processes import Ours
from bench.report import Reach, Result, Row, percentile
from bench.rounds import Bench, Comparison, Failed, Values
from testbed import sampling

_OURS = "devpi-sidecar"
_EVERY = 0.025
ACCEPT = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
"""What Prometheus sends."""


def scrape(bench: Bench) -> Result:
    """Scrapes of /metrics during an import and afterwards; the memory of the first scrape.

    The import is long enough for some hundred scrapes: the 99th percentile of fewer is the slowest one.
    """
    export = inputs.export(bench.inputs, inputs.SMALL if bench.quick else inputs.Spec(projects=500, files=8000))

    def run(folder: Path) -> Values:
        with Ours(folder, init_dir=export.as_archive) as ours:
            ours.live()
            before = sampling.rss(ours.pid)
            (first,), _ = _scrape(ours, lambda: True, most=1)
            after = sampling.rss(ours.pid)
            importing, alone = _scrape(ours, lambda: ours.status()["phase"] in ("starting", "importing"))
            ours.ready()
            ready, idle = _scrape(ours, lambda: True, most=200)
            return {
                "first": first,
                "importing p50": percentile(importing, 0.5),
                "importing p99": percentile(importing, 0.99),
                "importing livez": percentile(alone, 0.99),
                "scrapes": len(importing),
                "ready p50": percentile(ready, 0.5),
                "ready p99": percentile(ready, 0.99),
                "ready livez": percentile(idle, 0.99),
                "library": (after - before) / sampling.MIB,
                "rss": sampling.rss(ours.pid) / sampling.MIB,
            }

    outcome = bench.in_turn({_OURS: run})

    def row(what: str, unit: str, quantity: str, reach: Reach | None = None) -> Row:
        return Row(what, unit, None, outcome.series(_OURS, quantity), reach)

    return Result(
        [
            row("while an import runs: p50", "ms", "importing p50"),
            row("while an import runs: p99", "ms", "importing p99", Reach("median", "≤", 5)),
            row("while an import runs: /livez, p99", "ms", "importing livez"),
            row("scrapes during the import", "", "scrapes"),
            row("ready: p50", "ms", "ready p50"),
            row("ready: p99", "ms", "ready p99", Reach("median", "≤", 5)),
            row("ready: /livez, p99", "ms", "ready livez"),
            row("the first scrape, which imports prometheus_client", "ms", "first"),
            row("the sidecar's RSS: increase by the first scrape", "MiB", "library"),
            row("the sidecar's RSS, ready and scraped", "MiB", "rss", Reach("worst", "≤", 45)),
        ],
        [
            f"OpenMetrics, over one kept connection as with Prometheus, every {_EVERY * 1000:.0f} ms, from the request "
            "to the last byte; `/livez` half-way between shows what the machine itself adds. Client, import and "
            "sidecar share the machine's CPUs.",
        ],
    )


def _scrape(ours: Ours, goes_on: Callable[[], bool], most: int = 10_000) -> tuple[list[float], list[float]]:
    """Return milliseconds of each scrape, and of a `/livez` after each, in ascending order. Raises `Failed`."""
    connection = http.client.HTTPConnection("127.0.0.1", ours.port, timeout=30)
    times: dict[str, list[float]] = {"/metrics": [], "/livez": []}
    try:
        while len(times["/livez"]) < most and goes_on():
            for path, taken in times.items():
                time.sleep(_EVERY / 2)  # so that neither waits for the end of the request before it
                taken.append(_ask(connection, path))
    finally:
        connection.close()
    if not times["/livez"]:
        raise Failed("the import was too short for a scrape")
    return sorted(times["/metrics"]), sorted(times["/livez"])


def _ask(connection: http.client.HTTPConnection, path: str) -> float:
    began = time.monotonic()
    connection.request("GET", path, headers={"Accept": ACCEPT})
    answer = connection.getresponse()
    answer.read()
    if answer.status != 200:
        raise Failed(f"{path} answered {answer.status}")
    return (time.monotonic() - began) * 1000


COMPARISONS = (Comparison("scrape", "`/metrics`, as Prometheus scrapes it", scrape),)
