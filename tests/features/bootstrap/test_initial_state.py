"""`sidecar.features.bootstrap.initial_state`: the log of a running import."""

from __future__ import annotations

import logging

import pytest

from sidecar.devpi.protocol import Progress
from sidecar.features.bootstrap import import_status, initial_state
from sidecar.features.bootstrap.import_status import ImportState, ImportStatus
from sidecar.features.bootstrap.initial_state import Follower


@pytest.fixture
def follower(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Follower:
    """A follower that logs each report."""
    monkeypatch.setattr(initial_state, "_LOG_EVERY", 0.0)
    caplog.set_level(logging.INFO, initial_state.__name__)
    return Follower(import_status.Tracker(ImportStatus(ImportState.PENDING)), lambda status: None)


def report(state: ImportState, **counts: list[int]) -> Progress:
    every = {name: [0, 0] for name in ("users", "indexes", "projects", "files", "bytes", "extracted")}
    return Progress(state.value, counts=every | counts)


def test_each_part_of_an_import_logs_what_it_counts(follower: Follower, caplog: pytest.LogCaptureFixture) -> None:
    """Bytes of the archives while it unpacks, files while it loads; never 0 of 0."""
    archives = [3_100_000, 12_000_000]
    follower.follow(report(ImportState.EXTRACTING, extracted=[0, 12_000_000]))
    follower.follow(report(ImportState.EXTRACTING, extracted=archives))
    follower.follow(report(ImportState.LOADING, extracted=archives))
    follower.follow(report(ImportState.LOADING, extracted=archives, files=[7, 20], projects=[2, 5]))
    assert [
        "import: extracting, 0 bytes of 12.0 MB of archives",
        "import: extracting, 3.1 MB of 12.0 MB of archives",
        "import: loading",
        "import: loading, 7 of 20 files, 2 of 5 projects",
    ] == caplog.messages


def test_a_folder_is_not_counted_while_it_is_looked_through(
    follower: Follower, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is unpacked, so there are no bytes of archives."""
    follower.follow(report(ImportState.EXTRACTING))
    assert ["import: extracting"] == caplog.messages
