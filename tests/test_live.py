"""`sidecar status --watch`: what a page of it holds, and how it fits into a small terminal."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sidecar import live
from sidecar.summary import Fields


def ago(seconds: float) -> str:
    """That time, as `/status` tells it."""
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def page(status: dict[str, Any], *checks: dict[str, Any], ready: bool = True) -> list[str]:
    view = live.View(ready, Fields(status), tuple(map(Fields, checks)))
    return list(live._page(view, "", 100, color=False))


def at(lines: list[str], start: str) -> int:
    """Where the line is that begins so."""
    return next(number for number, line in enumerate(lines) if line.startswith(start))


def test_a_check_has_its_value() -> None:
    """With the unit that the page has, in a column."""
    lines = page(
        {"phase": "ready"},
        {"name": "http", "status": "pass", "value": 0.0031, "unit": "seconds"},
        {"name": "disk", "status": "warn", "value": 41_200_000_000, "unit": "bytes", "reason": "fills"},
        {"name": "events", "status": "pass", "value": 1, "unit": "serials"},
        {"name": "process", "status": "pass", "value": None, "unit": None},
    )
    assert "  pass http                 3.1 ms" in lines
    assert "  warn disk           41.2 GB free  fills" in lines
    assert "  pass events             1 serial" in lines
    assert "  pass process" in lines


def test_phases_have_durations() -> None:
    """Those that are over, and the one that lasts."""
    phases = [("starting", 68.4), ("importing", 68), ("ready", 5)]
    lines = page({"phase": "ready", "phases": [{"phase": name, "since": ago(since)} for name, since in phases]})
    assert re.fullmatch(r"  phases: starting 0\.4 s, importing 1 min 03 s, ready 5\.\d s", lines[1])


def test_replicas_and_their_lag() -> None:
    """A primary's, a few of them; or how far behind this one is."""
    replicas = [{"address": f"10.0.3.{n}", "behind": 12 * n, "asked_at": ago(70)} for n in range(6)]
    (line,) = [line for line in page({"devpi": {"replicas": replicas}}) if line.startswith("  replicas: ")]
    assert "10.0.3.0 0 serials behind (1 min 10 s ago), 10.0.3.1 12 serials behind (1 min 10 s ago), " in line
    assert line.endswith(", and 2 more")
    assert "  replication: 1 serial behind" in page({"devpi": {"behind": 1, "replicas": []}})
    assert not [line for line in page({"devpi": {"behind": None, "replicas": []}}) if "repli" in line]


def test_what_matters_comes_first() -> None:
    """Bars and checks before the archives, of which there may be many; bytes in the units of people."""
    loading = {
        "state": "loading",
        "archives": [{"name": "backup.bz2", "bytes": 734_003_200}],
        "bytes": {"done": 187_904_819, "total": 734_003_200},
        "files": {"done": 512, "total": 2000},
    }
    lines = page({"phase": "importing", "import": loading}, {"name": "http", "status": "fail"}, ready=False)
    assert at(lines, "  files") < at(lines, "  bytes") < at(lines, "  fail http") < at(lines, "    backup.bz2, 734 MB")
    assert lines[at(lines, "  bytes")].endswith(" 26%  188 MB of 734 MB")
    assert lines[at(lines, "  files")].endswith(" 26%  512 of 2,000")


def test_what_does_not_fit_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """In the last line of the terminal; where all fits, nothing is counted."""
    live._draw([f"line {n}" for n in range(10)], 4, 80)
    drawn = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", capsys.readouterr().out)
    assert ["line 0", "line 1", "line 2", "  … 7 more lines"] == drawn.split("\n")
    live._draw([f"line {n}" for n in range(4)], 4, 80)
    assert "more" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("abcdefgh", "abcde"),
        ("日本語", "日本"),
        ("a日本語", "a日本"),
        ("\uff46\uff55\uff4c\uff4c", "\uff46\uff55"),
        ("e\u0301e\u0301e\u0301e\u0301e\u0301e\u0301", "e\u0301e\u0301e\u0301e\u0301e\u0301"),
        ("\x1b[31mab\x1b[0mcdefg", "\x1b[31mab\x1b[0mcde"),
        ("abcde", "abcde"),
    ],
    ids=["ascii", "wide", "half of a wide one", "full width", "combining", "colours", "exact"],
)
def test_a_line_is_cut_by_cells(line: str, shown: str) -> None:
    """Five of them: what is wide takes two, what is put onto another none."""
    assert shown == live._clip(line, 5)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 10**400, "x", None, [], True])
def test_a_figure_of_another_kind(value: object) -> None:
    """Nothing that is answered ends the view."""
    count = {"done": value, "total": value}
    status = {"import": {"state": "loading", "files": count, "bytes": count, "rate": value, "eta_seconds": value},
              "devpi": {"behind": value, "replicas": [{"behind": value, "asked_at": value}]},
              "phases": [{"phase": value, "since": value}, {"phase": "x", "since": "2026-01-01T00:00:00"}]}  # fmt: skip
    assert "  fail http" in page(status, {"name": "http", "status": "fail", "value": value, "unit": "seconds"})
