"""`sidecar.worker.search_index_folder`: an index is moved aside; tests/image shows what devpi-web does then."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sidecar.worker import search_index_folder
from sidecar.worker.search_index_folder import patient, set_aside


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An index."""
    return index(tmp_path / ".indices")


def index(folder: Path, content: str = "new") -> Path:
    """Create files that look like an index."""
    folder.mkdir()
    for name in ("_project_2.toc", "project_abc.seg", "project_WRITELOCK"):
        (folder / name).write_text(content)
    (folder / "project.tmp").mkdir()
    return folder


def names(folder: Path) -> set[str]:
    """Return the names in it."""
    return {entry.name for entry in folder.iterdir()}


def test_it_is_renamed_and_made_anew(folder: Path) -> None:
    """Complete, beside its old place."""
    files = names(folder)
    assert folder.with_name(".indices.damaged") == set_aside(folder)
    assert files == names(folder.with_name(".indices.damaged"))
    assert set() == names(folder)
    assert 0o700 == folder.stat().st_mode & 0o777


@pytest.mark.parametrize("older", ["folder", "file", "link"])
def test_one_generation_is_kept(folder: Path, older: str) -> None:
    """An older one is removed, whatever it is, but not the target of a link."""
    aside, elsewhere = folder.with_name(".indices.damaged"), index(folder.parent / "elsewhere")
    {"folder": lambda: index(aside, "old"), "file": aside.touch, "link": lambda: aside.symlink_to(elsewhere)}[older]()
    assert aside == set_aside(folder)
    assert not aside.is_symlink()
    assert "new" == (aside / "_project_2.toc").read_text()
    assert 4 == len(names(elsewhere))


def test_a_link_to_a_folder_elsewhere(folder: Path) -> None:
    """The index is renamed where it is, and the link stays."""
    real = folder.rename(folder.with_name("real"))
    folder.symlink_to(real)
    assert real.with_name("real.damaged") == set_aside(folder)
    assert folder.is_symlink()
    assert set() == names(folder)


@pytest.mark.parametrize("what", ["file", "loose link", "nothing"])
def test_what_is_no_folder(tmp_path: Path, what: str) -> None:
    """It is moved aside, and there is a folder."""
    folder = tmp_path / ".indices"
    {"file": folder.touch, "loose link": lambda: folder.symlink_to("/nowhere"), "nothing": lambda: None}[what]()
    kept = set_aside(folder)
    assert (kept is None) == (what == "nothing")
    assert folder.is_dir()
    assert not folder.is_symlink()


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EACCES, errno.EXDEV])
def test_a_mount_is_emptied_into_a_folder_of_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It can't be renamed. The table of contents goes first: without it there is no index, so none is partial."""
    rename, moved = Path.rename, []

    def refuse(self: Path, target: Path) -> Path:
        if self == folder:
            raise OSError(number, os.strerror(number))
        moved.append(self.name)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    for content in ("first", "second"):
        (folder / "_project_2.toc").write_text(content)
        assert folder / ".damaged" == set_aside(folder)
        assert {".damaged"} == names(folder)
        assert content == (folder / ".damaged" / "_project_2.toc").read_text()
    assert "_project_2.toc" == moved[0]


def test_an_index_that_stays_where_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other error is left to the caller, and nothing is lost."""
    files = names(folder)

    def refuse(self: Path, target: Path) -> Path:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        set_aside(folder)
    assert files == names(folder)


def test_a_full_volume_keeps_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new index needs the space of the old one."""
    monkeypatch.setattr(
        search_index_folder.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 3)
    )  # type: ignore[attr-defined]
    assert set_aside(folder) is None
    assert {".indices"} == names(folder.parent)


class Killed(BaseException):
    """In place of a SIGKILL."""


STEPS = ("rename", "mkdir", "unlink", "rmdir")


def killed_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Prevent the step of this number and all later ones; return whether it was reached."""
    count = iter(range(10_000))
    died = []

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            if next(count) >= number:
                died.append(True)
                raise Killed
            return function(*arguments, **options)

        return step

    for name in STEPS:
        monkeypatch.setattr(os, name, dying(getattr(os, name)))
    return lambda: bool(died)


def lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every step at which it may be killed, in a folder of its own."""
    for number in range(100):
        (home := tmp_path / str(number)).mkdir()
        folder = index(home / ".indices")
        index(folder.with_name(".indices.damaged"), "old")
        with monkeypatch.context() as patch:
            died = killed_at(number, patch)
            with suppress(Killed):
                set_aside(folder)
        if not died():
            return
        yield folder


def test_a_kill_at_any_instant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is complete in its place or aside; a second call moves it aside."""
    killed = 0
    for folder in lives(tmp_path, monkeypatch):
        killed += 1
        aside = folder.with_name(".indices.damaged")
        whole = [place for place in (folder, aside) if place.exists() and len(names(place)) == 4]
        assert [place for place in whole if (place / "_project_2.toc").read_text() == "new"]
        folder.mkdir(exist_ok=True)  # as devpi-web does at its start
        assert aside == set_aside(folder)
        assert set() == names(folder)
    assert killed > 5


def test_an_index_that_a_commit_replaces_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lasts is raised in the end, and another error at once."""
    monkeypatch.setattr(search_index_folder, "_MOMENT", 0.0)
    asked: list[str] = []

    def opening(folder: str, *, indexname: str) -> str:
        asked.append(folder)
        if folder == "broken":
            raise PermissionError(folder)
        if folder == "missing" or len(asked) < 3:
            raise FileNotFoundError(folder)
        return indexname

    assert patient(opening)("there", indexname="project") == "project"
    assert len(asked) == 3
    with pytest.raises(FileNotFoundError):
        patient(opening)("missing", indexname="project")
    asked.clear()
    with pytest.raises(PermissionError):
        patient(opening)("broken", indexname="project")
    assert len(asked) == 1
