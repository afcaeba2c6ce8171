"""`sidecar status --watch`: the contents of its page, and how it fits into a small terminal."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sidecar.cli import watch
from sidecar.cli.fit import cells
from sidecar.cli.render import Fields


def ago(seconds: float) -> str:
    """Return the time of that many seconds ago, as `/status` formats it."""
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def page(status: dict[str, Any], *checks: dict[str, Any], ready: bool = True, columns: int = 100) -> list[str]:
    view = watch.View(ready, Fields(status), tuple(map(Fields, checks)))
    return list(watch._page(view, "", columns, color=False))


def at(lines: list[str], start: str) -> int:
    """Return the index of the line that begins with this text."""
    return next(number for number, line in enumerate(lines) if line.startswith(start))


def test_a_check_has_its_value() -> None:
    """In a column, with the same unit as on the page."""
    lines = page(
        {"phase": "ready"},
        {"name": "http", "status": "pass", "value": 0.0031, "unit": "seconds"},
        {"name": "disk", "status": "warn", "value": 41_200_000_000, "unit": "bytes", "reason": "fills"},
        {"name": "events", "status": "pass", "value": 1, "unit": "serials"},
        {"name": "process", "status": "pass", "value": None, "unit": None},
    )
    assert "  pass    http                 3.1 ms" in lines
    assert "  warn    disk           41.2 GB free  fills" in lines
    assert "  pass    events             1 serial" in lines
    assert "  pass    process" in lines


def test_phases_have_durations() -> None:
    """Past phases, and the current one."""
    phases = [("starting", 68.4), ("importing", 68), ("ready", 5)]
    lines = page({"phase": "ready", "phases": [{"phase": name, "since": ago(since)} for name, since in phases]})
    assert re.fullmatch(r"  phases: starting 0\.4 s, importing 1 min 03 s, ready 5\.\d s", lines[1])


def test_replicas_and_their_lag() -> None:
    """A primary's first replicas, or how far behind a replica is."""
    replicas = [{"address": f"10.0.3.{n}", "behind": 12 * n, "asked_at": ago(70)} for n in range(6)]
    (line,) = [line for line in page({"devpi": {"replicas": replicas}}, columns=250) if "replicas: " in line]
    assert "10.0.3.0 0 serials behind (1 min 10 s ago), 10.0.3.1 12 serials behind (1 min 10 s ago), " in line
    assert line.endswith(", and 2 more")
    assert "  replication: 1 serial behind" in page({"devpi": {"behind": 1, "replicas": []}})
    assert not [line for line in page({"devpi": {"behind": None, "replicas": []}}) if "repli" in line]


def test_what_matters_comes_first() -> None:
    """Bars and checks before the archives, of which there may be many; bytes in readable units."""
    loading = {
        "state": "loading",
        "archives": [{"name": "backup.bz2", "bytes": 734_003_200}],
        "bytes": {"done": 187_904_819, "total": 734_003_200},
        "files": {"done": 512, "total": 2000},
    }
    lines = page({"phase": "importing", "import": loading}, {"name": "http", "status": "fail"}, ready=False)
    order = ("  files", "  bytes", "  fail    http", "    backup.bz2, 734 MB")
    assert sorted(at(lines, start) for start in order) == [at(lines, start) for start in order]
    assert lines[at(lines, "  bytes")].endswith(" 26%  188 MB of 734 MB")
    assert lines[at(lines, "  files")].endswith(" 26%  512 of 2,000")


def test_what_does_not_fit_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """In the last line of the terminal; if everything fits, there is no such line."""
    watch._draw([f"line {n}" for n in range(10)], 4)
    drawn = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", capsys.readouterr().out)
    assert ["line 0", "line 1", "line 2", "  … 7 more lines"] == drawn.split("\n")
    watch._draw([f"line {n}" for n in range(4)], 4)
    assert "more" not in capsys.readouterr().out


IMPORTING = {
    "phase": "importing",
    "since": "2026-11-22T12:00:00.123Z",
    "import": {
        "state": "loading",
        "archives": [{"name": "backup-of-the-great-server-of-the-big-company-2026.tar.bz2", "bytes": 734_003_200}],
        "files": {"done": 512, "total": 200_000},
        "projects": {"done": 12, "total": 3000},
        "bytes": {"done": 187_904_819, "total": 734_003_200},
        "rate": 180.5,
        "eta_seconds": 130,
        "current": "alice/dev/a-project-with-a-rather-long-name",
    },
    "devpi": {"version": "6.20.3"},
    "sidecar": {"version": "0.1.0"},
}
CHECKS = (
    {"name": "root-password", "status": "pending", "reason": "not checked yet"},
    {"name": "http", "status": "fail", "value": 0.0031, "unit": "seconds", "reason": "it answered 500 for 12 s " * 9},
    {"name": "disk", "status": "warn", "value": 41_200_000_000, "unit": "bytes", "reason": "日本語の理由" * 20},
)


@pytest.mark.parametrize("columns", [200, 100, 80, 60, 40, 20, 8])
@pytest.mark.parametrize("color", [False, True])
def test_every_line_fits(columns: int, color: bool) -> None:
    """No line is wider than the terminal; reasons are complete, and continued lines are indented."""
    view = watch.View(False, Fields(IMPORTING), tuple(map(Fields, CHECKS)))
    lines = list(watch._page(view, "", columns, color=color))
    assert [line for line in lines if cells(line) > columns] == []
    text = re.sub(r"\x1b\[[0-9;]*m|\s", "", "".join(lines))
    for whole in ("it answered 500 for 12 s " * 9, "日本語の理由" * 20):
        assert whole.replace(" ", "") in text
    if 40 <= columns <= 100:
        first = next(n for n, line in enumerate(lines) if "it answered 500" in line)
        assert all(line.startswith("    ") for line in lines[first + 1 : first + 3])


def test_the_least_important_goes_first() -> None:
    """A check's value before its name, a bar and counts before the share, the time before the phase."""
    view = watch.View(False, Fields(IMPORTING), tuple(map(Fields, CHECKS)))
    pages = ["\n".join(watch._page(view, "", columns, color=False)) for columns in (100, 80, 60, 40, 30)]

    def shows(words: str) -> list[bool]:
        return [re.search(words, page) is not None for page in pages]

    for words in ("importing", "root-password", "about 2 min 10 s left", "26%"):
        assert [True] * 5 == shows(words)
    assert [True, False, False, False, False] == shows("alice/dev/")
    assert [False] * 5 == shows("not checked yet")  # same as `pending`
    assert [True, True, True, False, False] == shows("since 2026")
    assert [True, True, True, False, False] == shows(r"[░.]{9} 26%|░{9}")
    assert [True, True, True, True, False] == shows("188 MB of 734 MB")
    assert [True, True, True, True, False] == shows("3.1 ms")


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 10**400, "x", None, [], True])
def test_a_figure_of_another_kind(value: object) -> None:
    """No answer ends the view."""
    count = {"done": value, "total": value}
    status = {"import": {"state": "loading", "files": count, "bytes": count, "rate": value, "eta_seconds": value},
              "devpi": {"behind": value, "replicas": [{"behind": value, "asked_at": value}]},
              "phases": [{"phase": value, "since": value}, {"phase": "x", "since": "2026-01-01T00:00:00"}]}  # fmt: skip
    assert "  fail    http" in page(status, {"name": "http", "status": "fail", "value": value, "unit": "seconds"})
