"""After following the hint of a refused archive, the archive is imported."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.exports.sources import Budget, ImportRefused, Limits, Omissions, find
from sidecar.exports.unpack import unpack
from tests.support import needs
from tests.support.hostile.corpus import ZEROS, member
from tests.support.hostile.judge import Quiet

FILES = {"alice/dev/pkg/1.0/pkg-1.0.zip": b"a wheel", "dataindex.json": b"{}"}
FIRST = "alice/dev/pkg/1.0/pkg-1.0.zip"


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """The directory of an export."""
    for name, content in FILES.items():
        path = tmp_path / "export" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "export"


def tar(*arguments: str | Path) -> None:
    """GNU tar, called as by an operator."""
    needs.program("bzip2")  # tar calls it
    subprocess.run([needs.program("tar"), *arguments], check=True, capture_output=True)


def symbolic_link(export: Path, archive: Path) -> None:
    """A file of the export is a link to another place."""
    (export / FIRST).rename(export.parent / "elsewhere")
    (export / FIRST).symlink_to(export.parent / "elsewhere")
    tar("-cjf", archive, "-C", export, ".")


def hard_link_to_nothing(export: Path, archive: Path) -> None:
    """The first of two names was removed from the archive."""
    os.link(export / FIRST, export / "alice/second.zip")
    tar("-cf", archive, "-C", export, FIRST, "alice/second.zip", "dataindex.json")
    tar("--delete", "-f", archive, FIRST)


def linked_index(export: Path, archive: Path) -> None:
    """The index has a second name."""
    os.link(export / "dataindex.json", export / "backup-of-dataindex.json")
    tar("-cjf", archive, "-C", export, "backup-of-dataindex.json", "dataindex.json", "alice")


def link_with_data(export: Path, archive: Path) -> None:
    """A hard link, as cpio writes it."""
    link = member("second", b"a wheel", type=b"1", linkname=FIRST)
    archive.write_bytes(member(FIRST, b"a wheel") + link + member("dataindex.json", b"{}") + ZEROS)


def holes(export: Path, archive: Path) -> None:
    """A sparse file."""
    with (export / "hole").open("wb") as file:
        file.truncate(2**20)
        file.seek(2**20)
        file.write(b"x")
    tar("--sparse", "--format=gnu", "-cjf", archive, "-C", export, ".")


def holes_in_pax(export: Path, archive: Path) -> None:
    """A sparse file in a PAX archive."""
    with (export / "hole").open("wb") as file:
        file.truncate(2**20)
        file.seek(2**20)
        file.write(b"x")
    tar("--sparse", "--format=pax", "-cjf", archive, "-C", export, ".")


def pipe(export: Path, archive: Path) -> None:
    """A named pipe in the export."""
    os.mkfifo(export / "pipe")
    tar("-cjf", archive, "-C", export, ".")


def appended(export: Path, archive: Path) -> None:
    """Today's export was appended to yesterday's archive."""
    tar("-cf", archive, "-C", export, ".")
    tar("-rf", archive, "-C", export, ".")


def from_beside(export: Path, archive: Path) -> None:
    """Packed with a relative path, which tar was told to keep."""
    (export.parent / "here").mkdir()
    tar("-P", "-cjf", archive, "-C", export.parent / "here", "../export")


def absolute(export: Path, archive: Path) -> None:
    """Packed with an absolute path, which tar was told to keep."""
    tar("-P", "-cjf", archive, export)


REFUSED: dict[Callable[[Path, Path], None], str] = {
    symbolic_link: "is a symbolic link",
    hard_link_to_nothing: "not an earlier file",
    linked_index: "hard link from or to dataindex.json",
    link_with_data: "hard link with data",
    holes: "sparse file",
    holes_in_pax: "sparse file",
    pipe: "named pipe",
    appended: "is there twice",
    from_beside: "'..'",
    absolute: "absolute path",
}


def unpacked(archive: Path, into: Path) -> dict[str, bytes]:
    """The files of an archive, by name."""
    (source,) = find(archive.parent).sources
    unpack(source, into, Limits(), Budget(10**9), Quiet(), Omissions(strict=False))
    return {str(path.relative_to(into)): path.read_bytes() for path in into.rglob("*") if path.is_file()}


@pytest.mark.parametrize("pack", REFUSED, ids=lambda pack: pack.__name__)
def test_the_hint_is_followed(export: Path, tmp_path: Path, pack: Callable[[Path, Path], None]) -> None:
    """The command in the hint creates an archive that is imported, with the whole export."""
    archive = tmp_path / "init" / "backup.bz2"
    archive.parent.mkdir()
    pack(export, archive)
    with pytest.raises(ImportRefused) as caught:
        unpacked(archive, tmp_path / "refused")
    assert REFUSED[pack] in caught.value.reason
    hint = caught.value.hint
    if "delete it" in hint:
        assert caught.value.member is not None
        (export / caught.value.member).unlink()
    needs.program("bzip2")  # tar calls it
    words = shlex.split(hint[hint.rindex("tar -") :])
    assert words[-2:] == ["EXPORT_DIRECTORY", "."]
    archive.unlink()
    subprocess.run([*words[:-2], str(export), "."], check=True, cwd=archive.parent, capture_output=True)
    found = unpacked(archive, tmp_path / "taken")
    assert FILES.items() <= found.items()
    assert set(found) == {str(path.relative_to(export)) for path in export.rglob("*") if path.is_file()}


def test_each_hint_is_its_own() -> None:
    """Six different commands or conditions for ten mistakes: none is the command that made the mistake."""
    from sidecar.exports import members

    hints = [members.refusal(kind)[1] for kind in (b"2", b"6", b"S", b"7")]
    hints += [members.PACK_EACH_FILE, members.PACK_FROM_INSIDE]
    assert len(set(hints)) == len(hints)


def test_linked_files_are_one_file(export: Path, tmp_path: Path) -> None:
    """Two names of a file, packed by GNU tar, become two names of one file; both count as members."""
    os.link(export / FIRST, export / "alice/second.zip")
    archive = tmp_path / "init" / "backup.bz2"
    archive.parent.mkdir()
    tar("-cjf", archive, "-C", export, ".")
    found = unpacked(archive, tmp_path / "into")
    assert found == FILES | {"alice/second.zip": b"a wheel"}
    assert 2 == (tmp_path / "into" / FIRST).stat().st_nlink


@pytest.mark.parametrize("error", ["EMLINK", "EPERM", "EOPNOTSUPP"])
def test_where_there_are_no_more_links_a_copy_is_made(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    """If a file can't have more names (ext4: 65,000), or the file system has no hard links, it is copied."""
    import errno

    os.link(export / FIRST, export / "alice/second.zip")
    archive = tmp_path / "init" / "backup.bz2"
    archive.parent.mkdir()
    tar("-cjf", archive, "-C", export, FIRST, "alice/second.zip", "dataindex.json")

    def link(source: Path, target: Path, *, follow_symlinks: bool) -> None:
        assert not follow_symlinks
        raise OSError(getattr(errno, error), os.strerror(getattr(errno, error)))

    monkeypatch.setattr(os, "link", link)
    found = unpacked(archive, tmp_path / "into")
    assert found == FILES | {"alice/second.zip": b"a wheel"}
    second = (tmp_path / "into/alice/second.zip").stat()
    assert (1, 0o100600) == (second.st_nlink, second.st_mode)


def test_each_link_is_paid_for(export: Path, tmp_path: Path) -> None:
    """A hundred names of a file count as a hundred files."""
    (export / FIRST).write_bytes(os.urandom(100_000))
    for number in range(100):
        os.link(export / FIRST, export / f"name{number}")
    archive = tmp_path / "init" / "backup.bz2"
    archive.parent.mkdir()
    tar("-cjf", archive, "-C", export, ".")
    assert archive.stat().st_size < 300_000
    (source,) = find(archive.parent).sources
    with pytest.raises(ImportRefused, match="more than the available space") as caught:
        unpack(source, tmp_path / "into", Limits(), Budget(5_000_000), Quiet(), Omissions(strict=False))
    assert caught.value.retryable
    shutil.rmtree(tmp_path / "into")
    whole = unpack(source, tmp_path / "into", Limits(), Budget(20_000_000), Quiet(), Omissions(strict=False))
    assert whole.bytes > 101 * 100_000
