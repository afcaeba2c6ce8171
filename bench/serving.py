"""devpi-server's own speed behind the sidecar: `throughput`, `request-metrics`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import inputs
from bench.probes import Load, rate, simple_pages
from bench.processes import ByHand, Ours, devpi_import, devpi_server, free_ports, get, installed_plugin
from bench.report import Reach, Result, Row
from bench.rounds import Bench, Comparison, Failed, Outcome, Values, Way

CLIENTS = 8
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
        outcome = bench.in_turn({"both": _against_uncounted(_state(folder, export), load)})
    return Result(
        load.rows(outcome),
        [
            "By hand: the same container, in which a plugin of devpi-server has taken the counting out. Both run side "
            f"by side on copies of one state, and neither is scraped. {load.words}",
        ],
    )


_UNCOUNTED = """
import threading
from sidecar.devpi import serving

class Uncounted:
    def __init__(self, app):
        self.report = lambda send: threading.Event().wait()
        self.app = app
    def __call__(self, environ, start_response):
        return self.app(environ, start_response)

serving.Traffic = Uncounted
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
            return load.run({_BY_HAND: port, _OURS: container.devpi_port})

    return run


def _against_uncounted(state: Path, load: _AskedInTurn) -> Way:
    def run(folder: Path) -> Values:
        homes = {name: folder / name.replace(" ", "-") for name in (_BY_HAND, _OURS)}
        for home in homes.values():
            home.mkdir()
            shutil.copytree(state, home / "serverdir")
        plugin = installed_plugin(folder / "plugin", "uncounted", _UNCOUNTED)
        with Ours(homes[_BY_HAND], environ=plugin) as without, Ours(homes[_OURS]) as counted:
            without.ready()
            counted.ready()
            values = load.run({_BY_HAND: without.devpi_port, _OURS: counted.devpi_port})
            if [_counts_files(each.port) for each in (without, counted)] != [False, True]:
                raise Failed("the plugin has not taken the counting out")
            return values

    return run


def _counts_files(port: int) -> bool:
    """Whether `/metrics` tells of requests for files; what was answered is known a second later."""
    time.sleep(2)
    return b'devpi_server_http_requests_total{route="file"' in get(port, "/metrics")[1]


@dataclass(frozen=True)
class _AskedInTurn:
    """Clients that ask two servers in turn."""

    export: inputs.Export
    blocks: int
    seconds: float

    @classmethod
    def of(cls, bench: Bench, export: inputs.Export) -> _AskedInTurn:
        return cls(export, *((3, 1.0) if bench.quick else (10, 2.0)))

    @property
    def words(self) -> str:
        return (
            f"{CLIENTS} clients over kept connections, each asking again as soon as it has its answer, in a process of "
            f"their own on the same CPUs. They ask both in turn, {self.blocks} times {self.seconds:.0f} s each, so "
            "that both have what this machine's speed does meanwhile; the value of a run is the median of these."
        )

    def rows(self, outcome: Outcome) -> list[Row]:
        def row(what: str, quantity: str) -> Row:
            by_hand, ours = (outcome.series("both", f"{name} {quantity}") for name in (_BY_HAND, _OURS))
            return Row(what, "1/s", by_hand, ours, Reach("ratio", "≥", 0.98))

        return [row("simple pages", "pages"), row("files of 4 kB", "files")]

    def run(self, ports: Mapping[str, int]) -> Values:
        values: dict[str, float] = {}
        pages = simple_pages(self.export)
        files = [_first_file(ports[_BY_HAND], page) for page in pages]
        for kind, paths in (("pages", pages), ("files", files)):
            rates: dict[str, list[float]] = {name: [] for name in ports}
            for block in range(-1, self.blocks):  # the first fills the caches, and does not count
                for name in ports if block % 2 else reversed(list(ports)):
                    load = Load("closed", "--clients", CLIENTS, "--seconds", self.seconds, ports[name], *paths)
                    answered = rate(load.result())
                    if block >= 0:
                        rates[name].append(answered)
            values |= {f"{name} {kind}": median(found) for name, found in rates.items()}
        return values


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
