"""devpi-server's own speed behind the sidecar: `throughput`, `request-metrics`."""

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
TOLD = 4.0
"""Seconds after which `/metrics` tells of what was answered; it takes 3 at the most."""
_BY_HAND, _OURS = "by hand", "ours"


def throughput(bench: Bench) -> Result:
    """Requests a second through our container, and of bare devpi-server."""
    export = inputs.export(bench.inputs, inputs.SMALL)
    load = _AskedInTurn.of(bench, export)
    with bench.folder() as folder:
        outcome = bench.in_turn({"both": _against_bare(_state(folder, export), load)})
    return Result(
        load.rows(outcome),
        [f"{load.words} Both servers run side by side, with the same flags on copies of one state."],
    )


def request_metrics(bench: Bench) -> Result:
    """Requests a second with devpi-server's requests counted for `/metrics`, and without that."""
    export = inputs.export(bench.inputs, inputs.SMALL)
    load = _AskedInTurn.of(bench, export)
    with bench.folder() as folder:
        outcome = bench.in_turn({"both": _with_and_without(_state(folder, export), load)})
    return Result(
        load.rows(outcome),
        [
            "By hand: requests to the same devpi-server with a header by which they pass by the counting, through a "
            f"plugin. So it is one process that answers both, and it isn't scraped meanwhile. {load.words}",
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
    """A serverdir that holds the export."""
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
            time.sleep(TOLD)
            page = simple_pages(load.export)[0]
            if [_counts(container, page, header) for header in "01"] != [False, True]:
                raise Failed("the plugin does not let requests pass by the counting")
            return values

    return run


def _counts(container: Ours, page: str, header: str) -> bool:
    """Whether a request with this header is in `/metrics`."""
    before = _pages_counted(container)
    get(container.devpi_port, page, headers={"X-Counted": header})
    time.sleep(TOLD)
    return _pages_counted(container) == before + 1


def _pages_counted(container: Ours) -> float:
    told = get(container.port, "/metrics")[1].decode().splitlines()
    pages = 'devpi_server_http_requests_total{route="simple",'
    return sum(float(line.rpartition(" ")[2]) for line in told if line.startswith(pages))


@dataclass(frozen=True)
class _Asked:
    """Whom to ask, and a header to say."""

    port: int
    header: str = "X-Asked: by the bench"


@dataclass(frozen=True)
class _AskedInTurn:
    """Clients that ask two ways in turn."""

    export: inputs.Export
    seconds: float

    @classmethod
    def of(cls, bench: Bench, export: inputs.Export) -> _AskedInTurn:
        return cls(export, 4.0 if bench.quick else 20.0)

    @property
    def words(self) -> str:
        return (
            f"{CLIENTS} clients, each asking again as soon as it has its answer, over the same connection where devpi "
            "keeps it (after a file), in a process of their own on the same CPUs. For "
            f"{self.seconds:.0f} s they ask one way or the other for a quarter of a second, in an order by chance, so "
            "that both have what this machine's speed does; the ratio is the median of the pairs'."
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
        told = [part for way in ways for part in ("--way", f"{way.port} {way.header}")]
        said = Load("turns", "--clients", CLIENTS, "--seconds", seconds, *told, *paths).result()
        return [rate(way) for way in said["ways"]]


def _first_file(port: int, page: str) -> str:
    """The path of the first file that a simple page names."""
    status, body = get(port, page, headers={"Accept": "text/html"})
    _, found, rest = body.decode().partition('href="')
    if status != 200 or not found:
        raise Failed(f"{page} said {status}, and names no file")
    path = rest.partition('"')[0].partition("#")[0]
    parts = page.rstrip("/").split("/")
    while path.startswith("../"):
        path, parts = path.removeprefix("../"), parts[:-1]
    return path if path.startswith("/") else "/".join([*parts, path])


COMPARISONS = (
    Comparison("throughput", "devpi-server's answers a second, through ours and bare", throughput),
    Comparison("request-metrics", "What it costs devpi-server that its requests are counted", request_metrics),
)
