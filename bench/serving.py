"""devpi-server's throughput under the sidecar: `throughput`, `request-metrics`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import inputs
from bench.probes import Load, rate, simple_pages
from bench.processes import ByHand, Ours, devpi_import, devpi_server, free_ports, get
from bench.report import Reach, Result, Row
from bench.rounds import Bench, Comparison, Failed, Outcome, Values, Way
from testbed.plugins import installed_plugin

CLIENTS = 8
COUNTED = 4.0
"""Seconds after which `/metrics` contains an answered request; it takes 3 at most."""
_BY_HAND, _OURS = "plain devpi-server", "devpi-sidecar"


def throughput(bench: Bench) -> Result:
    """Requests per second of our container and of plain devpi-server."""
    export = inputs.export(bench.inputs, inputs.SMALL)
    load = _AskedInTurn.of(bench, export)
    with bench.folder() as folder:
        outcome = bench.in_turn({"both": _against_bare(_state(folder, export), load)})
    return Result(
        load.rows(outcome),
        [f"{load.words} Both servers run side by side, with the same flags on copies of one state."],
    )


def request_metrics(bench: Bench) -> Result:
    """Requests per second with and without the counting for `/metrics`."""
    export = inputs.export(bench.inputs, inputs.SMALL)
    load = _AskedInTurn.of(bench, export)
    with bench.folder() as folder:
        outcome = bench.in_turn({"both": _with_and_without(_state(folder, export), load)})
    return Result(
        load.rows(outcome),
        [
            "Plain devpi-server: requests to the same process with a header that makes a plugin skip the counting. "
            f"Nothing scrapes it during the measurement. {load.words}",
        ],
    )


_PASSABLE = """
from sidecar.worker import plugin

class Passable(plugin.Traffic):
    def __call__(self, environ, start_response):
        if environ.get("HTTP_X_COUNTED") == "0":
            return self._app(environ, start_response)
        return super().__call__(environ, start_response)

plugin.Traffic = Passable
"""


def _state(folder: Path, export: inputs.Export) -> Path:
    """Return a serverdir with the export."""
    state = folder / "serverdir"
    with ByHand(folder, devpi_import(state, export.tree)) as importing:
        importing.wait()
    return state


def _against_bare(state: Path, load: _AskedInTurn) -> Way:
    def run(folder: Path) -> Values:
        (port,) = free_ports(1)
        by_hand, ours = (shutil.copytree(state, folder / name) for name in ("by-hand", "ours"))
        with ByHand(folder, devpi_server(by_hand, port)) as bare, Ours(folder, serverdir=ours) as container:
            bare.first_200(port, "/+api")
            container.ready()
            return load.run(_Asked(port), _Asked(container.devpi_port))

    return run


def _with_and_without(state: Path, load: _AskedInTurn) -> Way:
    def run(folder: Path) -> Values:
        plugin = installed_plugin(folder / "plugin", "passable", _PASSABLE)
        own = shutil.copytree(state, folder / "serverdir")
        with Ours(folder, serverdir=own, environ=plugin) as container:
            container.ready()
            port = container.devpi_port
            values = load.run(_Asked(port, "X-Counted: 0"), _Asked(port, "X-Counted: 1"))
            time.sleep(COUNTED)
            page = simple_pages(load.export)[0]
            if [_counts(container, page, header) for header in "01"] != [False, True]:
                raise Failed("the plugin does not make requests skip the counting")
            return values

    return run


def _counts(container: Ours, page: str, header: str) -> bool:
    """Whether a request with this header is in `/metrics`."""
    before = _pages_counted(container)
    get(container.devpi_port, page, headers={"X-Counted": header})
    time.sleep(COUNTED)
    return _pages_counted(container) == before + 1


def _pages_counted(container: Ours) -> float:
    lines = get(container.port, "/metrics")[1].decode().splitlines()
    pages = 'devpi_server_http_requests_total{route="simple",'
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(pages))


@dataclass(frozen=True)
class _Asked:
    """A port to send requests to, and a header of them."""

    port: int
    header: str = "X-Asked: by the bench"


@dataclass(frozen=True)
class _AskedInTurn:
    """Clients that alternate between two ways."""

    export: inputs.Export
    seconds: float

    @classmethod
    def of(cls, bench: Bench, export: inputs.Export) -> _AskedInTurn:
        return cls(export, 4.0 if bench.quick else 20.0)

    @property
    def words(self) -> str:
        return (
            f"{CLIENTS} clients in a separate process on the same CPUs, each with one request after the other, over "
            "the same connection if devpi keeps it (after a file). For "
            f"{self.seconds:.0f} s they alternate in random order between the two, a quarter of a second each, so that "
            "both see the same changes in the machine's speed; the ratio is the median of the pairs."
        )

    def rows(self, outcome: Outcome) -> list[Row]:
        def row(what: str, quantity: str) -> Row:
            by_hand, ours = (outcome.series("both", f"{name} {quantity}") for name in (_BY_HAND, _OURS))
            return Row(what, "1/s", by_hand, ours, Reach("ratio", "≥", 0.98), together=True)

        return [row("simple pages", "pages"), row("files of 4 kB", "files")]

    def run(self, by_hand: _Asked, ours: _Asked) -> Values:
        values: dict[str, float] = {}
        pages = simple_pages(self.export)
        files = [_first_file(by_hand.port, page) for page in pages]
        for kind, paths in (("pages", pages), ("files", files)):
            self._rates((by_hand, ours), paths, 2.0)  # fills the caches
            found = self._rates((by_hand, ours), paths, self.seconds)
            values |= {f"{name} {kind}": answered for name, answered in zip((_BY_HAND, _OURS), found, strict=True)}
        return values

    def _rates(self, ways: Sequence[_Asked], paths: Sequence[str], seconds: float) -> list[float]:
        arguments = [part for way in ways for part in ("--way", f"{way.port} {way.header}")]
        said = Load("turns", "--clients", CLIENTS, "--seconds", seconds, *arguments, *paths).result()
        return [rate(way) for way in said["ways"]]


def _first_file(port: int, page: str) -> str:
    """Return the path of the first file on a simple page."""
    status, body = get(port, page, headers={"Accept": "text/html"})
    _, found, rest = body.decode().partition('href="')
    if status != 200 or not found:
        raise Failed(f"{page} answered {status} without a file")
    path = rest.partition('"')[0].partition("#")[0]
    parts = page.rstrip("/").split("/")
    while path.startswith("../"):
        path, parts = path.removeprefix("../"), parts[:-1]
    return path if path.startswith("/") else "/".join([*parts, path])


COMPARISONS = (
    Comparison("throughput", "devpi-server's answers per second, with devpi-sidecar and plain", throughput),
    Comparison("request-metrics", "The cost of counting devpi-server's requests", request_metrics),
)
