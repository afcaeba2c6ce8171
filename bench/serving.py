"""devpi-server's own speed behind the sidecar: `throughput`."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench import inputs
from bench.probes import Load, rate, simple_pages
from bench.processes import ByHand, Ours, devpi_import, devpi_server, free_ports, get
from bench.report import Reach, Result, Row
from bench.rounds import Bench, Comparison, Failed, Values, Way

CLIENTS = 8


def throughput(bench: Bench) -> Result:
    """Requests a second through our container, and of bare devpi-server."""
    export = inputs.export(bench.inputs, inputs.SMALL)
    seconds = 5.0 if bench.quick else 20.0
    with bench.folder() as folder:
        state = folder / "serverdir"
        with ByHand(folder, devpi_import(state, export.tree)) as importing:
            importing.wait()
        outcome = bench.in_turn(
            {"by hand": _bare(state, export, seconds), "ours": _through_ours(state, export, seconds)}
        )

    def row(what: str, quantity: str) -> Row:
        by_hand, ours = outcome.series("by hand", quantity), outcome.series("ours", quantity)
        return Row(what, "1/s", by_hand, ours, Reach("ratio", "≥", 0.98))

    return Result(
        [row("simple pages", "pages"), row("files of 4 kB", "files")],
        [
            f"{CLIENTS} clients over kept connections, each asking again as soon as it has its answer, {seconds:.0f} s "
            "each, in a process of their own on the same CPUs. Both serve a copy of one state, with the same flags.",
        ],
    )


def _bare(state: Path, export: inputs.Export, seconds: float) -> Way:
    def run(folder: Path) -> Values:
        (port,) = free_ports(1)
        serverdir = shutil.copytree(state, folder / "serverdir")
        with ByHand(folder, devpi_server(serverdir, port)) as server:
            server.first_200(port, "/+api")
            return _loaded(port, export, seconds)

    return run


def _through_ours(state: Path, export: inputs.Export, seconds: float) -> Way:
    def run(folder: Path) -> Values:
        serverdir = shutil.copytree(state, folder / "serverdir")
        with Ours(folder, serverdir=serverdir) as ours:
            ours.ready()
            return _loaded(ours.devpi_port, export, seconds)

    return run


def _loaded(port: int, export: inputs.Export, seconds: float) -> Values:
    pages = simple_pages(export)
    files = [_first_file(port, page) for page in pages]
    values = {}
    for name, paths in (("pages", pages), ("files", files)):
        Load("closed", "--clients", CLIENTS, "--seconds", 1, port, *paths).result()  # caches as after some use
        values[name] = rate(Load("closed", "--clients", CLIENTS, "--seconds", seconds, port, *paths).result())
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
