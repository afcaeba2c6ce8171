"""devpi-server's own speed behind the sidecar: `throughput`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from bench import inputs
from bench.probes import Load, rate, simple_pages
from bench.processes import ByHand, Ours, devpi_import, devpi_server, free_ports, get
from bench.report import Reach, Result, Row
from bench.rounds import Bench, Comparison, Failed, Values, Way

CLIENTS = 8
_BY_HAND, _OURS = "by hand", "ours"


def throughput(bench: Bench) -> Result:
    """Requests a second through our container, and of bare devpi-server."""
    export = inputs.export(bench.inputs, inputs.SMALL)
    blocks, seconds = (3, 1.0) if bench.quick else (10, 2.0)
    with bench.folder() as folder:
        state = folder / "serverdir"
        with ByHand(folder, devpi_import(state, export.tree)) as importing:
            importing.wait()
        outcome = bench.in_turn({"both": _side_by_side(state, export, blocks, seconds)})

    def row(what: str, quantity: str) -> Row:
        by_hand, ours = (outcome.series("both", f"{name} {quantity}") for name in (_BY_HAND, _OURS))
        return Row(what, "1/s", by_hand, ours, Reach("ratio", "≥", 0.98))

    return Result(
        [row("simple pages", "pages"), row("files of 4 kB", "files")],
        [
            f"{CLIENTS} clients over kept connections, each asking again as soon as it has its answer, in a process of "
            f"their own on the same CPUs. Both servers run side by side, with the same flags on copies of one state, "
            f"and are asked in turn, {blocks} times {seconds:.0f} s each, so that both have what this machine's speed "
            "does meanwhile; the value of a run is the median of these.",
        ],
    )


def _side_by_side(state: Path, export: inputs.Export, blocks: int, seconds: float) -> Way:
    def run(folder: Path) -> Values:
        (port,) = free_ports(1)
        by_hand, ours = (shutil.copytree(state, folder / name) for name in ("by-hand", "ours"))
        with ByHand(folder, devpi_server(by_hand, port)) as bare, Ours(folder, serverdir=ours) as container:
            bare.first_200(port, "/+api")
            container.ready()
            return _loaded({_BY_HAND: port, _OURS: container.devpi_port}, export, blocks, seconds)

    return run


def _loaded(ports: Mapping[str, int], export: inputs.Export, blocks: int, seconds: float) -> Values:
    values: dict[str, float] = {}
    pages = simple_pages(export)
    files = [_first_file(ports[_BY_HAND], page) for page in pages]
    for kind, paths in (("pages", pages), ("files", files)):
        rates: dict[str, list[float]] = {name: [] for name in ports}
        for block in range(-1, blocks):  # the first fills the caches, and does not count
            for name in ports if block % 2 else reversed(list(ports)):
                load = Load("closed", "--clients", CLIENTS, "--seconds", seconds, ports[name], *paths)
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


COMPARISONS = (Comparison("throughput", "devpi-server's answers a second, through ours and bare", throughput),)
