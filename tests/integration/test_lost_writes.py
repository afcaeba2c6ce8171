"""Writes that the kernel lost are noticed, also if another process has got the error first."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sidecar.core import files
from sidecar.devpi.protocol import Initialise, Prepared, PrepareFailed
from sidecar.storage.inspection import Storage
from sidecar.storage.serverdir import Serverdir
from sidecar.worker import prepare
from sidecar.worker.patches import staged_storage
from sidecar.worker.tools import _Unfinished
from tests.support import volumes

SYNC = "import os, sys; from sidecar.core.files import sync_file_system as s; s(os.open(sys.argv[1], os.O_RDONLY))"


@pytest.fixture
def lose(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A volume, and a function that loses 8 MiB of writes to it and lets another process get the error."""
    with volumes.thin(tmp_path / "volume") as (volume, below):

        def lose() -> None:
            below.fill()
            (volume.path / "lost").write_bytes(os.urandom(8 * 2**20))
            somebody = subprocess.run([sys.executable, "-c", SYNC, volume.path], capture_output=True, check=False)
            assert b"OSError" in somebody.stderr, somebody
            files.sync_file_system(late := os.open(volume.path, os.O_RDONLY))  # the error is reported only once
            os.close(late)

        yield volume.path, lose


def test_of_a_stop(lose: tuple[Path, Callable[[], None]]) -> None:
    """The next start checks the uploads again."""
    path, lose_writes = lose
    serverdir = Serverdir(path, Storage("sqlite"))
    with ExitStack() as held:
        serverdir.open()
        held.callback(serverdir.lock.release)
        serverdir.begin_serving()
        lose_writes()
        with pytest.raises(OSError, match=r"No space|Input/output"):
            serverdir.clear_up(whole=True)
        assert serverdir.begin_serving() is True


def test_of_a_tool(lose: tuple[Path, Callable[[], None]]) -> None:
    """It does not exit as if all were well, and its result stays marked."""
    path, lose_writes = lose
    serverdir = Serverdir(path, Storage("sqlite"))
    with ExitStack() as held:
        serverdir.open()
        held.callback(serverdir.lock.release)
        state = _Unfinished("devpi-import")
        state.is_of(serverdir)
        state.begin(path)
        lose_writes()
        with pytest.raises(OSError, match=r"No space|Input/output"):
            state.end()
        assert (path / ".sidecar" / "tool.json").exists()


def test_of_a_preparation(lose: tuple[Path, Callable[[], None]], monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails, because of the disk."""
    path, lose_writes = lose

    def initialise(*_: object) -> Prepared:
        lose_writes()
        return Prepared("password")

    monkeypatch.setattr(prepare, "_initialise", initialise)
    monkeypatch.setattr(staged_storage, "without_patience", lambda _: None)
    request = Initialise(str(path / "state"), "x")
    answer = prepare.prepare(request, None, None, None)  # type: ignore[arg-type]
    assert isinstance(answer, PrepareFailed)
    assert "while writing the new state" in answer.reason
    assert answer.retryable
