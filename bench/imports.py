"""Imports of exports: `import`, `one-index`, `big-archive`; `growth` is in `bench.growth`."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

from bench import inputs
from bench.inputs import Export, Spec
from bench.processes import ByHand, Ours, devpi_import, devpi_server, free_ports, holds
from bench.report import Reach, Result, Row
from bench.rounds import Bench, Comparison, Failed, Values, Way
from testbed import sampling

MIB = sampling.MIB
BY_HAND, OURS = "plain devpi-server", "devpi-sidecar"
BULK = 4000
"""Projects in one index."""


def archives(bench: Bench) -> Result:
    """`.tar.bz2` → ready with all of it."""
    sizes = (
        [(Spec(10, 20), 0.35), (inputs.SMALL, 0.40)]
        if bench.quick
        else [(Spec(250, 1000), 0.35), (Spec(500, 2000), 0.40)]
    )
    result = Result(
        notes=[
            "Plain devpi-server: `tar xjf && devpi-import && devpi-server`, to the first 200 of +api, polled every "
            "20 ms.",
            "devpi-sidecar: the archive in DEVPI_INIT_DIR, to the first 200 of `/readyz`. Then devpi-server must have "
            "the last project of the export, and `/status` must report all files.",
        ]
    )
    for spec, limit in sizes:
        export = inputs.export(bench.inputs, spec)
        outcome = bench.in_turn({BY_HAND: _archive_by_hand(export), OURS: _archive_ours(export)})
        by_hand, ours = outcome.series(BY_HAND, "ready"), outcome.series(OURS, "ready")
        what = f"{spec.projects:,} projects, {spec.files:,} files → ready"
        result.rows.append(Row(what, "s", by_hand, ours, Reach("ratio", "≤", limit)))
    return result


def _archive_by_hand(export: Export) -> Way:
    def run(folder: Path) -> Values:
        (port,) = free_ports(1)
        tree, state = folder / "tree", folder / "serverdir"
        tree.mkdir()
        unpack: list[str | Path] = ["tar", "-xjf", export.archive, "-C", tree]
        with ByHand(folder, unpack, devpi_import(state, tree), devpi_server(state, port)) as server:
            seconds = server.first_200(port, "/+api")
            _check(export, holds(port, *export.probe()))
            return {"ready": seconds}

    return run


def _archive_ours(export: Export) -> Way:
    def run(folder: Path) -> Values:
        with Ours(folder, init_dir=export.as_archive) as ours:
            seconds = ours.ready()
            _phase_seconds(ours, export)
            return {"ready": seconds}

    return run


def _check(export: Export, files: int) -> None:
    expected = export.spec.files // export.spec.projects
    if files != expected:
        raise Failed(f"the last project has {files} files instead of {expected}")


def _phase_seconds(ours: Ours, export: Export) -> float:
    """Seconds of the import itself, from `/status`. Raises `Failed` if it is incomplete."""
    said = ours.status()["import"]
    if said["state"] != "completed" or said["files"] != {"done": export.spec.files, "total": export.spec.files}:
        raise Failed(f"the import is incomplete: {said}")
    _check(export, holds(ours.devpi_port, *export.probe()))
    return (datetime.fromisoformat(said["finished"]) - datetime.fromisoformat(said["started"])).total_seconds()


_COARSE = 0.1
"""Seconds between two samples of the memory: with half a gigabyte, each takes milliseconds, and an import minutes."""


def tree_by_hand(export: Export, *, sample: bool = True) -> Way:
    """Only devpi-import, without a server afterwards."""

    def run(folder: Path) -> Values:
        state = folder / "serverdir"
        with ByHand(folder, devpi_import(state, export.tree)) as importing:
            peak = 0
            if sample:
                with sampling.Sampler(importing.pid, _COARSE) as sampler:
                    seconds = importing.wait()
                peak = sampler.peak
            else:
                seconds = importing.wait()
        return {
            "seconds": seconds,
            "rate": export.spec.files / seconds,
            "cpu": importing.cpu_in_all(),
            "sqlite": (state / ".sqlite").stat().st_size / MIB,
            **({"peak": peak / MIB} if sample else {}),
        }

    return run


def tree_ours(export: Export, *, sample: bool = True) -> Way:
    """Everything until ready: the sidecar, the import, and devpi-server's start."""

    def run(folder: Path) -> Values:
        with Ours(folder, init_dir=export.as_directory) as ours:
            peak = 0
            if sample:
                with sampling.Sampler(ours.pid, _COARSE) as sampler:
                    seconds = ours.ready()
                peak = sampler.peak
            else:
                seconds = ours.ready()
            cpu = sampling.cpu(ours.pid)
            phase = _phase_seconds(ours, export)
        return {
            "seconds": seconds,
            "rate": export.spec.files / seconds,
            "rate while importing": export.spec.files / phase,
            "cpu": cpu,
            "sqlite": (ours.serverdir / ".sqlite").stat().st_size / MIB,
            **({"peak": peak / MIB} if sample else {}),
        }

    return run


def one_index(bench: Bench) -> Result:
    """Many projects in one index."""
    count = 200 if bench.quick else BULK
    export = inputs.export(bench.inputs, Spec(projects=count, files=count, indexes=1))
    outcome = bench.in_turn({BY_HAND: tree_by_hand(export), OURS: tree_ours(export)})

    def row(what: str, quantity: str, unit: str, limit: float | None = None) -> Row:
        reach = None if limit is None else Reach("ratio", "≤", limit)
        return Row(what, unit, outcome.series(BY_HAND, quantity), outcome.series(OURS, quantity), reach)

    return Result(
        [
            row(f"{count:,} projects: CPU", "cpu", "s", 0.40),
            row(".sqlite", "sqlite", "MiB", 0.2),
            row("peak of the sum of PSS", "peak", "MiB", 0.5),
        ],
        [
            "Plain devpi-server: only `devpi-import` of an unpacked export, up to its exit, including the events that "
            "it waits for.",
            "devpi-sidecar: the same directory in DEVPI_INIT_DIR; CPU and memory of all processes, from the start "
            "until `/readyz` answers 200, so the sidecar and devpi-server's start are included.",
            "Memory is sampled every 100 ms, which slows down both; for elapsed time see `growth`, which does not "
            "sample.",
        ],
    )


def big_archive(bench: Bench) -> Result:
    """One large archive: the sidecar's memory."""
    total = (256 if bench.quick else 2048) * MIB
    needed = 3 * total
    if (free := shutil.disk_usage(bench.home).free) < needed:
        raise Failed(f"{needed // MIB:,} MiB of disk are needed, {free // MIB:,} MiB are free")
    init_dir = inputs.big(bench.inputs, total)
    outcome = bench.in_turn({OURS: lambda folder: _big(folder, init_dir)}, rounds=1)

    def row(what: str, quantity: str, unit: str = "MiB", reach: Reach | None = None) -> Row:
        return Row(what, unit, None, outcome.series(OURS, quantity), reach)

    return Result(
        [
            row("the sidecar's RSS when the import starts", "first"),
            row("its peak RSS until ready (VmHWM)", "highest"),
            row("its RSS when ready", "last"),
            row("peak minus lowest during the import (“flat”: ± 10 MiB)", "spread", "MiB", Reach("worst", "≤", 10)),
            row("peak of the sum of PSS of all processes", "peak"),
            row("start → ready", "ready", "s"),
        ],
        [
            f"One run, devpi-sidecar only: a `.tar.bz2` of {total // MIB:,} MiB unpacked, wheels of 16 MiB of random "
            "bytes, many concatenated bz2 streams. RSS is sampled every 250 ms once the port answers.",
        ],
    )


def _big(folder: Path, init_dir: Path) -> Values:
    with Ours(folder, init_dir=init_dir) as ours:
        ours.live()
        with sampling.RssWatch(ours.pid) as watch, sampling.Sampler(ours.pid, _COARSE) as sampler:
            seconds = ours.ready()
        if ours.status()["import"]["state"] != "completed":
            raise Failed("the import was not completed")
        last, highest = sampling.rss(ours.pid), sampling.peak_rss(ours.pid)
    values = watch.values
    return {
        "first": values[0] / MIB,
        "highest": highest / MIB,
        "last": last / MIB,
        "spread": (highest - min(values)) / MIB,
        "peak": sampler.peak / MIB,
        "ready": seconds,
    }


COMPARISONS = (
    Comparison("import", "A `.tar.bz2` → ready with all of it", archives),
    Comparison("one-index", "Many projects in one index, imported", one_index),
    Comparison("big-archive", "One large archive: the sidecar's memory", big_archive),
)
