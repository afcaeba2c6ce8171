"""`sidecar.core.files`: files are complete or absent, and private."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from sidecar.core import files


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_a_file_is_written_with_the_exact_mode(tmp_path: Path, umask: int) -> None:
    """The mode is exact, whatever the umask."""
    before = os.umask(umask)
    try:
        files.write_file(tmp_path / "f", b"content")
    finally:
        os.umask(before)
    assert mode(tmp_path / "f") == 0o600
    assert (tmp_path / "f").read_bytes() == b"content"


def test_a_file_is_private_before_it_has_any_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unfinished file has mode 0600 from its first byte, even if the final mode is wider."""
    seen = []

    def write(descriptor: int, data: bytes) -> int:
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return real(descriptor, data)

    real = os.write
    monkeypatch.setattr(os, "write", write)
    files.write_file(tmp_path / "f", b"content", 0o644)
    assert seen == [0o600]
    assert mode(tmp_path / "f") == 0o644


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short writes of three bytes are continued."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    files.write_file(tmp_path / "f", b"0123456789")
    assert (tmp_path / "f").read_bytes() == b"0123456789"


@pytest.mark.parametrize("step", ["write", "fchmod", "fsync"])
def test_a_failed_write_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """With a full disk, the old content stays, and neither a file nor a descriptor is left."""
    files.write_file(tmp_path / "f", b"old")

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    descriptors = open_descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(OSError, match="No space left"):
            files.write_file(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert names(tmp_path) == ["f"]
    assert open_descriptors() == descriptors


def test_the_order_is_write_fsync_rename_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content is synced before the rename, and the directory before the function returns."""
    steps: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        steps.append("fsync dir" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file")
        real_fsync(descriptor)

    def rename(source: str, target: str) -> None:
        steps.append("rename")
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    files.write_file(tmp_path / "f", b"x")
    assert steps == ["fsync file", "rename", "fsync dir"]
    steps.clear()
    files.write_file(tmp_path / "f", b"y", sync=False)
    assert steps == ["rename"]


def test_a_directory_that_cant_be_synced_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFS returns EINVAL, which is ignored; EIO is raised."""
    codes = iter([errno.EINVAL, errno.EIO])

    def fsync(_: int) -> None:
        raise OSError(next(codes), "as told")

    monkeypatch.setattr(os, "fsync", fsync)
    files.fsync_dir(tmp_path)
    with pytest.raises(OSError, match="as told"):
        files.fsync_dir(tmp_path)


def test_reading(tmp_path: Path) -> None:
    """Content up to the limit; None without a file."""
    (tmp_path / "f").write_bytes(b"12345")
    assert files.read_file(tmp_path / "f", 5) == b"12345"
    assert files.read_file(tmp_path / "absent", 5) is None
    with pytest.raises(OSError, match="more than 4 bytes"):
        files.read_file(tmp_path / "f", 4)


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "socket"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    """A link, a FIFO, a folder and a socket raise an error at once and leave no open descriptor."""
    path = tmp_path / "f"
    server = socket.socket(socket.AF_UNIX)
    if kind == "link":
        (tmp_path / "target").write_bytes(b"x")
        path.symlink_to("target")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        server.bind(str(path))
    descriptors = open_descriptors()
    with pytest.raises(OSError, match="symbolic link" if kind == "link" else "not a regular file"):
        files.read_file(path, 10)
    assert open_descriptors() == descriptors
    server.close()


def test_a_link_is_followed_when_told_so(tmp_path: Path) -> None:
    """Kubernetes mounts secrets as links."""
    (tmp_path / "target").write_bytes(b"x")
    (tmp_path / "f").symlink_to("target")
    assert files.read_file(tmp_path / "f", 10, follow=True) == b"x"


def test_removing(tmp_path: Path) -> None:
    """A file is removed; a missing one is no error."""
    (tmp_path / "f").write_bytes(b"x")
    files.remove(tmp_path / "f")
    assert not (tmp_path / "f").exists()
    files.remove(tmp_path / "f")


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    """Unfinished files and links are removed; other files, folders, and a link's target stay."""
    (tmp_path / ".tmp-a").write_bytes(b"x")
    (tmp_path / "keep").write_bytes(b"x")
    (tmp_path / ".tmp-folder").mkdir()
    (tmp_path / ".tmp-link").symlink_to("keep")
    files.remove_leftovers(tmp_path)
    assert names(tmp_path) == [".tmp-folder", "keep"]
    files.remove_leftovers(tmp_path / "absent")


def test_a_file_is_made_private(tmp_path: Path) -> None:
    """Wider modes become 0600; only regular files are changed."""
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "f").chmod(0o664)
    assert files.make_private(tmp_path / "f", copy_limit=None)
    assert mode(tmp_path / "f") == 0o600
    (tmp_path / "link").symlink_to("f")
    assert not files.make_private(tmp_path / "link", copy_limit=10)
    assert not files.make_private(tmp_path / "absent", copy_limit=10)
