"""Archives beside existing data: those that were imported, those that were not, and those that can't be decided."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.core.lifecycle import Notice
from sidecar.exports import sources as archives
from sidecar.exports.unpack import unpack
from sidecar.features.bootstrap import import_status, unused
from sidecar.features.bootstrap.import_status import Archive, ImportState, ImportStatus
from tests.support.hostile.corpus import tar

TAR = tar({"dataindex.json": b"{}"})


class Init:
    """An init directory, and the record of an import of its content."""

    def __init__(self, path: Path) -> None:
        self.path = path / "init"
        self.record = path / "import.json"
        (self.path / "export" / "sub").mkdir(parents=True)
        (self.path / "nested" / "export").mkdir(parents=True)
        (self.path / "backup.bz2").write_bytes(TAR)
        (self.path / "export" / "dataindex.json").write_bytes(b"{}")
        (self.path / "nested" / "export" / "dataindex.json").write_bytes(b"{}")
        self.save(ImportState.COMPLETED)

    def save(self, state: ImportState) -> None:
        """Save the record as the import does."""
        sources = archives.find(self.path).sources
        limits, budget = archives.Limits(), archives.Budget(10**9)
        out = self.path.with_name(f"out-{state}")
        digests = [
            unpack(each, out, limits, budget, Deaf(), archives.Omissions(strict=True)).sha256 for each in sources
        ]
        taken = tuple(Archive(e.name, e.bytes, digest) for e, digest in zip(sources, digests, strict=True))
        looks = [[each.name, each.bytes, each.mtime_ns] for each in sources]
        import_status.save(self.record, ImportStatus(state, archives=taken), [[False, False], ["6.20.3"], *looks])

    def reasons(self) -> list[str]:
        """Return the notices' reasons."""
        return [notice.reason for notice in unused.notices(self.path, self.record)]


class Deaf:
    """An observer of unpacking that does nothing."""

    def unpacking(self, source: str, compressed_bytes: int, members: int, unpacked_bytes: int) -> None:
        pass


@pytest.fixture
def init(tmp_path: Path) -> Init:
    """An archive, a folder, and a folder with a nested export; all of them imported."""
    return Init(tmp_path)


def test_what_was_imported_may_stay(init: Init, caplog: pytest.LogCaptureFixture) -> None:
    """There is no notice, only a line in the log."""
    caplog.set_level("INFO")
    assert [] == init.reasons()
    assert "already imported: backup.bz2, export, nested" in caplog.text


def test_nothing_is_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without an init directory or a record there is no notice; a text file is no archive."""
    caplog.set_level("INFO")
    assert () == unused.notices(tmp_path / "absent", tmp_path / "absent.json")
    (tmp_path / "notes.txt").write_text("hello")
    assert () == unused.notices(tmp_path, tmp_path / "absent.json")
    assert "" == caplog.text


def longer(init: Init) -> str:
    (init.path / "backup.bz2").write_bytes(TAR * 2)
    return "backup.bz2"


def another_name(init: Init) -> str:
    (init.path / "backup.bz2").rename(init.path / "renamed.bz2")
    return "renamed.bz2"


def not_taken(init: Init) -> str:
    (init.path / "backup.7z").write_bytes(b"7z\xbc\xaf\x27\x1c")
    return "backup.7z"


def another_index(init: Init) -> str:
    (init.path / "export" / "dataindex.json").write_bytes(b"[]")
    return "export"


def more_below(init: Init) -> str:
    (init.path / "nested" / "more").write_bytes(b"1")
    return "nested"


@pytest.mark.parametrize("change", [longer, another_name, not_taken, another_index, more_below])
def test_anything_else_is_named(init: Init, change: Callable[[Init], str]) -> None:
    """Changed content, another name, and a file that can't be imported at all."""
    name = change(init)
    (reason,) = init.reasons()
    assert f"{name} in DEVPI_INIT_DIR: not imported, because the serverdir already holds data" == reason


@pytest.mark.parametrize("name", ["backup.bz2", "nested"])
def test_another_time_alone_is_not_decided(init: Init, name: str) -> None:
    """The same size may be the same file copied again, or another one."""
    os.utime(init.path / name, ns=(1, 2**61))
    (reason,) = init.reasons()
    assert f"{name} in DEVPI_INIT_DIR: not imported" in reason
    assert "it may differ from the imported archive of the same name" in reason


def test_a_folder_of_too_many_files_is_not_decided(init: Init, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparing all of them would delay every start."""
    monkeypatch.setattr(unused, "_WALKED", 1)
    (reason,) = init.reasons()
    assert "nested in DEVPI_INIT_DIR: not imported" in reason
    assert "it may differ" in reason


def test_an_import_that_failed_has_taken_nothing(init: Init) -> None:
    """The same if its record was deleted."""
    init.save(ImportState.FAILED)
    expected = ["backup.bz2, export, nested in DEVPI_INIT_DIR: not imported, because the serverdir already holds data"]
    assert expected == init.reasons()
    init.record.unlink()
    assert expected == init.reasons()


@pytest.mark.parametrize("damage", [b"{", b'{"status": 1, "fingerprint": 2}', b"null"])
def test_a_damaged_record_says_nothing(init: Init, damage: bytes) -> None:
    """It can't be decided then whether they were imported."""
    init.record.write_bytes(damage)
    (reason,) = init.reasons()
    assert "backup.bz2, export, nested in DEVPI_INIT_DIR: not imported" in reason
    assert "it may differ" in reason


@pytest.mark.parametrize("fingerprint", [None, 7, ["backup.bz2"], {"a": []}])
def test_a_record_without_its_archives_says_nothing(init: Init, fingerprint: object) -> None:
    """The same if the record has only its status."""
    record = json.loads(init.record.read_bytes())
    init.record.write_text(json.dumps(record | {"fingerprint": fingerprint}))
    (reason,) = init.reasons()
    assert "it may differ" in reason


def test_many_are_counted(tmp_path: Path) -> None:
    """Five names, printable, and the number of others; also the hint."""
    for number in range(8):
        (tmp_path / f"{number}\x1b.tar").write_bytes(TAR)
    (notice,) = unused.notices(tmp_path, tmp_path / "absent.json")
    assert "0\\x1b.tar, 1\\x1b.tar, 2\\x1b.tar, 3\\x1b.tar, 4\\x1b.tar and 3 more in DEVPI_INIT_DIR" in notice.reason
    assert "import" == notice.about
    assert "start on an empty volume" in notice.hint
    assert "SIDECAR_IGNORE_INIT_FILES=true" in notice.hint
    (notice,) = unused.notices(tmp_path, tmp_path / "absent.json", replica=True)
    assert "a replica imports nothing: remove the archives" in notice.hint
    assert "empty volume" not in notice.hint


def test_what_can_t_be_found_is_reported(tmp_path: Path) -> None:
    """An export directly in the init directory."""
    (tmp_path / "dataindex.json").write_bytes(b"{}")
    (notice,) = unused.notices(tmp_path, tmp_path / "absent.json")
    assert isinstance(notice, Notice)
    assert "an export is in the init directory itself" in notice.reason
