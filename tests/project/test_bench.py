"""The parts of the bench: numbers, inputs, pages; and one comparison from end to end."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tarfile
import time
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from bench import __main__ as command
from bench import inputs, load, processes
from bench.report import Reach, Result, Row, Section, Series, as_markdown, as_text, cells, number, percentile
from bench.rounds import ROOT, Bench, Comparison, Failed
from bench.svg import Line, plot
from sidecar.exports import merge, unpack
from sidecar.exports.sources import Budget, Limits, Omissions, Unpacked, find
from testbed import sampling

BY_HAND = Series((10.0, 20.0, 12.0))
OURS = Series((2.0, 3.0, 1.0))


# --- statistics and verdicts ----------------------------------------------------------------------------------------


def test_ratio_is_of_the_medians_and_the_pairs_are_kept() -> None:
    row = Row("start", "s", BY_HAND, OURS)
    assert 2 / 12 == row.ratio
    assert (0.2, 0.15, 1 / 12) == row.ratios


def test_ratio_of_ways_that_ran_together_is_the_median_of_the_pairs() -> None:
    """In a pair, a slow machine slows down both ways."""
    row = Row("requests", "1/s", Series((400, 200, 300)), Series((396, 197, 306)), together=True)
    assert 0.99 == row.ratio
    assert "0.99 (0.985 to 1.02)" in cells(row)


@pytest.mark.parametrize(
    ("reach", "expected"),
    [
        (Reach("ratio", "≤", 0.17), "met"),
        (Reach("ratio", "≤", 0.16), "**not met**: 0.167"),
        (Reach("median", "≤", 2.0), "met"),
        (Reach("worst", "≤", 2.0), "**not met**: 3"),
        (Reach("worst", "≥", 1.5), "**not met**: 1"),
        (None, ""),
    ],
)
def test_verdict(reach: Reach | None, expected: str) -> None:
    assert expected == Row("start", "s", BY_HAND, OURS, reach).verdict()


def test_one_failed_run_leaves_no_number() -> None:
    row = Row("start", "s", BY_HAND, Series((2.0, 3.0), ("it exited with code 1",)), Reach("ratio", "≤", 0.5))
    what, by_hand, ours, ratio, goal, verdict = cells(row)
    assert ("start", "12 s (10 to 20)", "failed in 1 of 3: it exited with code 1") == (what, by_hand, ours)
    assert ("-", "ratio ≤ 0.5") == (ratio, goal)
    assert verdict == "**not measured**: failed in 1 of 3: it exited with code 1"


def test_a_failure_of_plain_devpi_server_leaves_our_own_figures() -> None:
    row = Row("start", "s", Series((), ("killed",)), OURS, Reach("median", "≤", 2))
    assert "met" == row.verdict()
    assert row.ratio is None


def test_a_series_without_any_run_is_no_measurement() -> None:
    assert "**not measured**: not measured" == Row("start", "s", None, Series(()), Reach("median", "≤", 1)).verdict()


def test_series_over_another() -> None:
    assert Series((5.0, 20 / 3, 12.0)) == BY_HAND.over(OURS)
    assert BY_HAND.over(Series((), ("killed",))).failed == "failed in 1 of 1: failed in 1 of 1: killed"


def test_percentile_is_the_nearest_rank() -> None:
    ordered = [float(each) for each in range(1, 101)]
    assert [1.0, 50.0, 99.0, 100.0] == [percentile(ordered, share) for share in (0.0, 0.5, 0.99, 1.0)]
    assert 7.0 == percentile([7.0], 0.99)
    with pytest.raises(ValueError, match="no numbers"):
        percentile([], 0.5)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, "0"), (0.000123456, "0.000123"), (0.18, "0.18"), (12.345, "12.3"), (999.4, "999"), (12345.6, "12,346")],
)
def test_number(value: float, expected: str) -> None:
    assert expected == number(value)


# --- rounds ---------------------------------------------------------------------------------------------------------


def test_ways_run_in_turn_in_alternating_order_in_fresh_folders(tmp_path: Path) -> None:
    order: list[str] = []
    folders: list[Path] = []

    def way(name: str):  # type: ignore[no-untyped-def]
        def run(folder: Path) -> dict[str, float]:
            assert [] == list(folder.iterdir())
            (folder / "left").touch()
            folders.append(folder)
            order.append(name)
            return {"count": len(order)}

        return run

    outcome = Bench(3, False, tmp_path).in_turn({"a": way("a"), "b": way("b")})
    assert ["a", "b", "b", "a", "a", "b"] == order
    assert Series((1, 4, 5)) == outcome.series("a", "count")
    assert 6 == len(set(folders))
    assert [] == [folder for folder in folders if folder.exists()]
    assert "*\n" == (tmp_path / ".gitignore").read_text()


def test_a_failing_way_is_reported_and_the_others_continue(tmp_path: Path) -> None:
    def fails(_folder: Path) -> dict[str, float]:
        raise Failed("no memory limit can be set here")

    outcome = Bench(2, False, tmp_path).in_turn({"a": fails, "b": lambda _folder: {"x": 1.0}})
    assert outcome.series("a", "x").failed == "failed in 2 of 2: no memory limit can be set here"
    assert Series((1.0, 1.0)) == outcome.series("b", "x")
    assert outcome.series("b", "y").failed == "failed in 2 of 2: y was not measured"


# --- inputs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> inputs.Export:
    """A small export."""
    return inputs.export(tmp_path_factory.mktemp("inputs"), inputs.TINY)


def test_made_again_it_is_the_same_and_kept_it_is_not_made_again(export: inputs.Export, tmp_path: Path) -> None:
    again = inputs.export(tmp_path, inputs.TINY)
    names = sorted(path.relative_to(export.tree) for path in export.tree.rglob("*") if path.is_file())
    assert 9 == len(names)
    assert [(export.tree / name).read_bytes() for name in names] == [(again.tree / name).read_bytes() for name in names]
    made = again.archive.stat().st_mtime_ns
    assert made == inputs.export(tmp_path, inputs.TINY).archive.stat().st_mtime_ns
    other = inputs.export(tmp_path, replace(inputs.TINY, seed=1))
    assert [] == [name for name in names if (other.tree / name).read_bytes() == (again.tree / name).read_bytes()
                  and name.name != "dataindex.json"]  # fmt: skip


def test_a_kept_input_that_was_changed_is_refused(tmp_path: Path) -> None:
    made = inputs.export(tmp_path, inputs.TINY)
    next(made.tree.rglob("*.whl")).unlink()
    with pytest.raises(ValueError, match="has been changed"):
        inputs.export(tmp_path, inputs.TINY)


def test_our_importer_accepts_the_export(export: inputs.Export, tmp_path: Path) -> None:
    for init_dir in (export.as_directory, export.as_archive):
        loaded = merge.load(_unpacked(init_dir, tmp_path / init_dir.name), Limits(), Omissions(strict=True))
        assert (3, 4, 4, 8) == (
            loaded.totals.users, loaded.totals.indexes, loaded.totals.projects, loaded.totals.files,
        )  # fmt: skip
        assert "set" == loaded.root_user(lambda _pwhash, _pwsalt: False)
        assert not loaded.has_root_pypi


def _unpacked(init_dir: Path, target: Path) -> list[Unpacked]:
    """The init directory's only source as a tree, as the sidecar unpacks it."""
    (source,) = find(init_dir).sources
    target.mkdir()
    limits = Limits()
    return [unpack.unpack(source, target, limits, Budget.of(limits, target), _Silent(), Omissions(strict=True))]


class _Silent:
    def unpacking(self, source: str, compressed_bytes: int, members: int, unpacked_bytes: int) -> None:
        """Nobody listens."""


@pytest.mark.slow
def test_devpi_import_takes_it_and_pip_can_use_its_files(export: inputs.Export, tmp_path: Path) -> None:
    (port,) = processes.free_ports(1)
    state = tmp_path / "serverdir"
    commands = processes.devpi_import(state, export.tree), processes.devpi_server(state, port, *processes.CHEAP)
    with processes.ByHand(tmp_path, *commands) as server:
        server.first_200(port, "/+api", 60)
        assert 2 == processes.holds(port, *export.probe())
        index, project = export.probe()
        pip = [sys.executable, "-m", "pip", "--isolated", "download", "--no-deps", "--no-build-isolation", "-q"]
        source = ["--index-url", f"http://127.0.0.1:{port}/{index}/+simple/", "-d", str(tmp_path / "wheels")]
        environ = os.environ | {"PIP_CONFIG_FILE": os.devnull}
        subprocess.run([*pip, *source, project], check=True, env=environ)
    (wheel,) = (tmp_path / "wheels").iterdir()
    assert wheel.suffix == ".whl"
    assert wheel.read_bytes() == next(export.tree.rglob(wheel.name)).read_bytes()
    assert not sampling.is_there(server.pid)


def test_a_big_archive_is_whole(tmp_path: Path) -> None:
    init_dir = inputs.big(tmp_path, total=3 * 2**20, file_bytes=2**20)
    with tarfile.open(init_dir / "backup.tar.bz2") as archive:
        archive.extractall(tmp_path / "tree")
    wheels = sorted((tmp_path / "tree").rglob("*.whl"))
    assert 3 == len(wheels)
    with zipfile.ZipFile(wheels[0]) as wheel:
        assert wheel.testzip() is None
        assert any(name.endswith(".dist-info/METADATA") for name in wheel.namelist())
    loaded = merge.load(_unpacked(init_dir, tmp_path / "ours"), Limits(), Omissions(strict=True))
    assert (3, sum(path.stat().st_size for path in wheels)) == (loaded.totals.files, loaded.totals.bytes)


# --- sampling and load ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_and_cpu_of_a_tree(tmp_path: Path) -> None:
    work = "b = bytearray(40 * 2**20); import time; t = time.process_time()\nwhile time.process_time() - t < 0.3: pass"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}]); input()"
    with processes.Running([sys.executable, "-c", f"{child}"], tmp_path, {}) as process:
        with sampling.Sampler(process.pid) as sampler:
            deadline = time.monotonic() + 30
            while process.runs and time.monotonic() < deadline:
                time.sleep(0.01)
        assert not process.runs
    assert 40 * sampling.MIB < sampler.peak < 120 * sampling.MIB
    assert 0.3 <= process.cpu_in_all() < 5


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server that answers /fixed, /chunked, and /slow after 50 ms."""

    async def fixed(_request: web.Request) -> web.Response:
        return web.Response(text="x" * 1000)

    async def chunked(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        for _ in range(3):
            await answer.write(b"y" * 500)
        return answer

    async def slow(_request: web.Request) -> web.Response:
        await asyncio.sleep(0.05)
        return web.Response(status=503)

    app = web.Application()
    app.add_routes([web.get("/fixed", fixed), web.get("/chunked", chunked), web.get("/slow", slow)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def test_closed_load_reads_both_kinds_of_bodies(port: int) -> None:
    said = await load.closed_loop(port, ["/fixed", "/chunked"], clients=2, seconds=2)
    outcomes = said["outcomes"]
    assert {"200"} == set(outcomes)
    assert outcomes["200"] * 1000 <= said["bytes"] <= outcomes["200"] * 1500


async def test_load_in_turns_asks_each_way_for_its_share_of_the_time(port: int) -> None:
    (closed,) = processes.free_ports(1)
    said = await load.in_turns([(port, "X-A: b"), (closed, "X-A: b")], ["/fixed"], clients=2, seconds=4)
    answered, refused = (way["outcomes"] for way in said["ways"])
    assert {"200"} == set(answered)
    assert {"ConnectionRefusedError"} == set(refused)
    assert [2, 2] == [way["seconds"] for way in said["ways"]]


@pytest.mark.parametrize("keep_alive", [True, False])
async def test_open_load_sends_at_its_times_whatever_the_answers_do(port: int, keep_alive: bool) -> None:
    said = await load.open_loop(port, "/slow", rate=100, seconds=0.5, keep_alive=keep_alive)
    assert {"503": 50} == said["outcomes"]
    assert said["p50"] >= 0.05


async def test_open_load_counts_what_nobody_answers() -> None:
    (closed,) = processes.free_ports(1)
    said = await load.open_loop(closed, "/", rate=100, seconds=0.1, keep_alive=False)
    assert {"ConnectionRefusedError": 10} == said["outcomes"]


# --- the page -------------------------------------------------------------------------------------------------------


def test_markdown_has_every_row_with_its_verdict() -> None:
    rows = [Row("a | b", "s", BY_HAND, OURS, Reach("ratio", "≤", 0.1)), Row("alone", "MiB", None, OURS)]
    section = Section("start", "A start", {"date": "today", "CPUs": "2"}, Result(rows, ["a note"], {"p.svg": "<svg/>"}))
    page = as_markdown([section])
    assert "| a \\| b | 12 s (10 to 20) | 2 s (1 to 3) | 0.167 (0.0833 to 0.2) | ratio ≤ 0.1 |" in page
    assert "**not met**: 0.167 |" in page
    assert "| alone | - | 2 MiB (1 to 3) | - |  |  |" in page
    assert all(part in page for part in ("## A start", "date today; CPUs 2", "![A start](img/p.svg)", "- a note"))
    assert "not met: 0.167" in as_text(section)


def test_a_result_survives_being_kept() -> None:
    result = Result(
        [Row("a", "s", BY_HAND, Series((), ("x",)), Reach("ratio", "≤", 0.1)), Row("b", "", None, OURS, None, True)],
        ["n"],
        {"p.svg": "<svg/>"},
    )
    assert result == Result.from_json(json.loads(json.dumps(result.to_json())))


def test_the_page_has_this_run_and_what_earlier_ones_kept(tmp_path: Path) -> None:
    bench = Bench(1, False, tmp_path / "home")
    old = Section("growth", "Import by size", {"date": "yesterday"}, Result([], ["old"], {"g.svg": "<svg/>"}))
    command._keep(bench, [old, Section("idle", "x", {"date": "yesterday"}, Result([], ["older than this run's"]))])
    now = Section("idle", "The idle sidecar", {"date": "today"}, Result([Row("CPU", "%", None, OURS)]))
    command._write(bench, [now], tmp_path / "docs")
    page = (tmp_path / "docs" / "performance.md").read_text()
    assert page.index("- old") < page.index("## The idle sidecar") < page.index("| CPU |")
    assert "older than this run's" not in page
    assert "<svg/>" == (tmp_path / "docs" / "img" / "g.svg").read_text()
    elsewhere = Bench(1, False, tmp_path / "another home")
    command._write(
        elsewhere, [Section("idle", "The idle sidecar", {"date": "today"}, Result([], ["new"]))], tmp_path / "docs"
    )
    rewritten = (tmp_path / "docs" / "performance.md").read_text()
    assert page.partition("## The idle sidecar")[0] == rewritten.partition("## The idle sidecar")[0]
    assert "- new" in rewritten
    assert "| CPU |" not in rewritten


def test_what_cannot_be_measured_is_its_result(tmp_path: Path) -> None:
    def measure(_bench: Bench) -> Result:
        raise Failed("no memory limit can be set here (v1: read-only)")

    section = command._measure(Bench(1, False, tmp_path), Comparison("x", "An x", measure), "python3 dev.py bench x")
    assert "can't be measured here: no memory limit can be set here (v1: read-only)" in as_markdown([section])


def test_plot_is_svg_with_both_lines() -> None:
    lines = [
        Line("plain devpi-server", [100, 1000], [1, 9.5], [0.9, 9], [1.2, 12]),
        Line("devpi-sidecar & more", [100, 1000], [1, 2]),
    ]
    root = ET.fromstring(plot("A <title>", "projects", "s", lines))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"A <title>", "projects", "s", "plain devpi-server", "devpi-sidecar & more", "100", "1,000", "20"} <= set(
        texts
    )
    assert 2 == len(list(root.iter("{http://www.w3.org/2000/svg}polyline")))


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such"], "unknown comparison: no-such"),
        (["--pairs", "0"], "--pairs must be 1 or more"),
        (["--quick", "--write"], "can't be published"),
    ],
)
def test_wrong_calls(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command.main(arguments)
    assert 2 == end.value.code
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_healthcheck_from_end_to_end() -> None:
    arguments = [sys.executable, "-m", "bench", "--quick", "--pairs", "1", "healthcheck"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert 0 == done.returncode, done.stderr
    assert "healthcheck: `sidecar healthcheck`" in done.stdout
    assert "failed" not in done.stdout
    assert "target: ratio ≤ 0.5: " in done.stdout
    for part in ("commit ", "CPUs ", "load average at the start ", "devpi-server 6.", "aiohttp 3.", "command `"):
        assert part in done.stdout
