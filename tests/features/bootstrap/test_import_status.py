"""`sidecar.features.bootstrap.import_status`: the progress and rate of an import, and its record."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.devpi.protocol import Progress
from sidecar.features.bootstrap import import_status as imports
from sidecar.features.bootstrap.import_status import (
    Archive,
    Count,
    ImportFailure,
    ImportState,
    ImportStatus,
    LeftOut,
    Tracker,
)

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Clock:
    """Replaces `now` in `sidecar.features.bootstrap.import_status`, and the monotonic clock of a `Tracker`."""

    def __init__(self) -> None:
        self.at = START

    def __call__(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return (self.at - START).total_seconds()

    def advance(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A time that stands still until changed."""
    clock = Clock()
    monkeypatch.setattr(imports, "now", clock)
    return clock


def report(tracker: Tracker, state: ImportState, current: str | None = None, **fields: Any) -> ImportStatus:
    names = [name for name in ("archives", "ignored", "left_out", "digests") if name in fields]
    others = {name: fields.pop(name) for name in names}
    return tracker.advance(Progress(state, counts=fields or None, current=current, **others))


def test_reports_are_taken_in(clock: Clock) -> None:
    """The fields of a report replace the known ones, the others stay."""
    tracker = Tracker(ImportStatus(ImportState.PENDING, started=START), clock=clock.monotonic)
    report(
        tracker,
        ImportState.EXTRACTING,
        archives=[{"name": "a.bz2", "bytes": 3, "sha256": None}],
        ignored=["README"],
        left_out={"total": 7, "first": [{"archive": "a.bz2", "member": "../x", "reason": "leads out"}]},
        extracted=(1, 3),
    )
    status = report(tracker, ImportState.LOADING, "alice/dev", users=(1, 2), files=(0, 10))
    assert status == ImportStatus(
        ImportState.LOADING,
        archives=(Archive("a.bz2", 3),),
        ignored=("README",),
        left_out_total=7,
        left_out=(LeftOut("a.bz2", "../x", "leads out"),),
        users=Count(1, 2),
        files=Count(0, 10),
        extracted=Count(1, 3),
        current="alice/dev",
        started=START,
    )
    assert status is tracker.status


def test_archives_come_piece_by_piece(clock: Clock) -> None:
    """More archives are appended to the known ones, and a digest is set for its archive only."""
    tracker = Tracker(ImportStatus(ImportState.PENDING, started=START), clock=clock.monotonic)
    for names in (["a", "b"], ["c"]):
        given = [{"name": name, "bytes": 1, "sha256": None} for name in names]
        report(tracker, ImportState.EXTRACTING, archives=given, ignored=[f"not {name}" for name in names])
    report(tracker, ImportState.EXTRACTING, digests={"c": "0c"})
    status = report(tracker, ImportState.EXTRACTING, digests={"a": "0a"})
    assert (Archive("a", 1, "0a"), Archive("b", 1), Archive("c", 1, "0c")) == status.archives
    assert ("not a", "not b", "not c") == status.ignored


def test_rate_and_time_left_are_those_of_loading(clock: Clock) -> None:
    """An hour of extracting before it doesn't count."""
    tracker = Tracker(ImportStatus(), clock=clock.monotonic)
    report(tracker, ImportState.EXTRACTING, extracted=(1, 2))
    clock.advance(3600)
    status = report(tracker, ImportState.LOADING, files=(0, 100))
    assert (status.rate, status.eta_seconds) == (None, None)
    clock.advance(2)
    status = report(tracker, ImportState.LOADING, files=(25, 100))
    assert (status.rate, status.eta_seconds) == (12.5, 6.0)
    clock.advance(6)
    status = report(tracker, ImportState.LOADING, files=(100, 100))
    assert (status.rate, status.eta_seconds) == (12.5, 0.0)


def test_no_time_at_all_is_no_division_by_zero(clock: Clock) -> None:
    """Two reports within one tick of the clock."""
    tracker = Tracker(ImportStatus(), clock=clock.monotonic)
    status = report(tracker, ImportState.LOADING, files=(5, 10))
    assert status.rate == 5000
    assert status.eta_seconds == 0.0


def test_a_clock_that_is_set_back_changes_no_rate(clock: Clock) -> None:
    """NTP may set a container's clock back at any time."""
    seconds = iter((0.0, 2.0))
    tracker = Tracker(ImportStatus(), clock=lambda: next(seconds))
    report(tracker, ImportState.LOADING)
    clock.advance(-100)
    status = report(tracker, ImportState.LOADING, files=(5, 10))
    assert (status.rate, status.eta_seconds) == (2.5, 2.0)


@pytest.mark.parametrize("error", [None, ImportFailure("truncated", "copy it again", "a.bz2", "alice/dev")])
def test_the_end_keeps_what_was_reached(clock: Clock, error: ImportFailure | None) -> None:
    """It has time, reason, last counts and rate, and no remaining time."""
    tracker = Tracker(ImportStatus(started=START), clock=clock.monotonic)
    report(tracker, ImportState.LOADING, files=(0, 4))
    clock.advance(2)
    report(tracker, ImportState.LOADING, files=(4, 8))
    state = ImportState.FAILED if error else ImportState.COMPLETED
    status = tracker.end(state, error)
    assert (status.state, status.error, status.finished) == (state, error, clock.at)
    assert (status.files, status.rate, status.eta_seconds) == (Count(4, 8), 2.0, None)


# --- save and load --------------------------------------------------------------------------------------------------

text = st.text(max_size=20)
number = st.integers(min_value=0, max_value=2**60)
counts = st.builds(Count, number, number)
times = st.none() | st.datetimes(timezones=st.just(UTC), allow_imaginary=False)
statuses = st.builds(
    ImportStatus,
    state=st.sampled_from(ImportState),
    archives=st.lists(st.builds(Archive, text, number, st.none() | text), max_size=3).map(tuple),
    ignored=st.lists(text, max_size=3).map(tuple),
    left_out_total=number,
    left_out=st.lists(st.builds(LeftOut, text, text, text), max_size=3).map(tuple),
    users=counts,
    indexes=counts,
    projects=counts,
    files=counts,
    bytes=counts,
    extracted=counts,
    current=st.none() | text,
    rate=st.none() | st.floats(0, 1e9),
    eta_seconds=st.none() | st.floats(0, 1e9),
    started=times,
    finished=times,
    error=st.none() | st.builds(ImportFailure, text, text, st.none() | text, st.none() | text),
)
fingerprints = st.lists(st.tuples(text, number, number).map(list), max_size=3)


@given(statuses, fingerprints)
def test_what_is_saved_is_loaded(status: ImportStatus, fingerprint: list[list[Any]]) -> None:
    """Every field is kept exactly, and the archives' fingerprint."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "import.json"
        imports.save(path, status, fingerprint)
        assert imports.load(path) == (status, fingerprint)


def test_the_record_is_private(tmp_path: Path) -> None:
    """Only its owner can read it: it has names of users and projects."""
    imports.save(tmp_path / "import.json", ImportStatus(), [])
    assert (tmp_path / "import.json").stat().st_mode & 0o777 == 0o600


WHOLE = {"status": json.loads(json.dumps(imports.to_json(ImportStatus(started=START)))), "fingerprint": []}


def without(name: str) -> dict[str, Any]:
    return {"status": {k: v for k, v in WHOLE["status"].items() if k != name}, "fingerprint": []}


def with_(**changes: Any) -> dict[str, Any]:
    return {"status": {**WHOLE["status"], **changes}, "fingerprint": []}


def test_the_whole_record_is_understood(tmp_path: Path) -> None:
    """A valid record, so that the tests below fail only because of their change."""
    (tmp_path / "import.json").write_text(json.dumps(WHOLE))
    loaded = imports.load(tmp_path / "import.json")
    assert loaded == (replace(ImportStatus(), started=START), [])


def test_a_record_of_an_older_version_is_understood(tmp_path: Path) -> None:
    """It has no list of what was left out, because nothing was."""
    status = {name: value for name, value in WHOLE["status"].items() if not name.startswith("left_out")}
    (tmp_path / "import.json").write_text(json.dumps(WHOLE | {"status": status}))
    loaded = imports.load(tmp_path / "import.json")
    assert loaded == (replace(ImportStatus(), started=START), [])


def test_a_failure_that_an_older_build_recorded_is_understood(tmp_path: Path) -> None:
    """Its field `hint` has an older name: a failed archive is not retried by the newer build."""
    failure = ImportFailure("is truncated", "copy it again", "backup.tar", None)
    error = {"mend" if name == "hint" else name: value for name, value in asdict(failure).items()}
    (tmp_path / "import.json").write_text(json.dumps(with_(state="failed", error=error) | {"fingerprint": [["a", 1]]}))
    loaded = imports.load(tmp_path / "import.json")
    assert loaded is not None
    assert (ImportState.FAILED, failure, [["a", 1]]) == (loaded[0].state, loaded[0].error, loaded[1])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b"null",
        b"7",
        b"[" * 100_000,
        b"{}",
        json.dumps({"status": {}}).encode(),
        json.dumps({"status": [], "fingerprint": []}).encode(),
        json.dumps({"status": WHOLE["status"]}).encode(),
        *(json.dumps(without(name)).encode() for name in ("state", "archives", "ignored", "files", "started", "error")),
        json.dumps(with_(state="dreaming")).encode(),
        json.dumps(with_(unknown=1)).encode(),
        json.dumps(with_(started="yesterday")).encode(),
        json.dumps(with_(started=5)).encode(),
        json.dumps(with_(files=[1, 2])).encode(),
        json.dumps(with_(files={"done": 1, "total": 2, "more": 3})).encode(),
        json.dumps(with_(archives=[{"title": "a"}])).encode(),
        json.dumps(with_(archives=5)).encode(),
        json.dumps(with_(error="broken")).encode(),
    ],
)
def test_a_record_that_cant_be_understood_is_none(tmp_path: Path, content: bytes) -> None:
    """A damaged record is not worth a failure."""
    (tmp_path / "import.json").write_bytes(content)
    assert imports.load(tmp_path / "import.json") is None


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text(), st.lists, max_leaves=5).map(json.dumps).map(str.encode)
)
def test_no_content_raises(content: bytes) -> None:
    """The same for anything else at its path."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "import.json"
        path.write_bytes(content)
        assert imports.load(path) is None


@pytest.mark.parametrize("kind", ["absent", "directory", "link"])
def test_what_is_no_file_is_none(tmp_path: Path, kind: str) -> None:
    """Absent, a folder, a link to a valid record."""
    path = tmp_path / "import.json"
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        imports.save(tmp_path / "elsewhere", ImportStatus(), [])
        path.symlink_to("elsewhere")
    assert imports.load(path) is None
