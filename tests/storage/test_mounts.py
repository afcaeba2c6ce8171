"""`sidecar.storage.mounts`, and the hint for a serverdir that another user owns."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.storage import mounts
from sidecar.storage.mounts import Mount
from tests.support import private_mounts
from tests.support.container import PATIENCE, ROOT

LOOK = """
import errno, os, sys
from pathlib import Path
from sidecar.storage import mounts
from sidecar.storage.inspection import not_writable
path = Path(sys.argv[1])
os.setgroups([]); os.setgid(4322); os.setuid(4321)
found = mounts.under(path)
print(found.place, found.kind, found.in_memory, sep="|")
print(not_writable(path, PermissionError(errno.EACCES, "Permission denied", str(path))).hint)
"""


def look(path: Path, *steps: str) -> list[str]:
    """Run `look` for `path` as another user, after the shell commands `steps` in a new mount namespace."""
    private_mounts.require()
    script = "\n".join(["set -e", *steps, 'exec "$@"'])
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", sys.executable, "-c", LOOK]
    done = subprocess.run([*command, path], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder whose name the kernel escapes, and that other users can reach."""
    with tempfile.TemporaryDirectory(prefix="devpi-sidecar-tests-") as name:
        Path(name).chmod(0o755)
        made = Path(name, "a b")
        made.mkdir()
        yield made


def test_a_tmpfs_that_root_owns(place: Path) -> None:
    """Docker's --tmpfs without options: the hint names the missing ones."""
    found, hint = look(place, f"mount -t tmpfs -o mode=755 none '{place}'")
    assert f"{place}|tmpfs|True" == found
    assert f"mount the tmpfs for this user: `--tmpfs {place}:uid=4321,mode=0700`" == hint


def test_a_mount_that_root_owns(place: Path) -> None:
    """A bind mount: the command is for the host, where the path is not known here; running as root is not suggested."""
    found, hint = look(place, f"mkdir '{place}.host'", f"mount --bind '{place}.host' '{place}'")
    assert found.startswith(f"{place}|")
    assert hint.startswith(f"on the host, run `chown -R 4321:4322 FOLDER` for the folder that is mounted at {place} ")
    assert "uid 0" not in hint


def test_a_mount_of_another_user(place: Path) -> None:
    """Running as the owner is suggested unless that is root."""
    hint = look(place, f"mkdir '{place}.host'", f"chown 77 '{place}.host'", f"mount --bind '{place}.host' '{place}'")[1]
    assert hint.endswith(", or run this as uid 77")


def test_a_folder_inside_of_what_is_mounted(place: Path) -> None:
    """The command contains the path in this container."""
    found, hint = look(place / "x", f"mount -t tmpfs -o mode=755 none '{place}'", f"mkdir '{place}/x'")
    assert f"{place}|tmpfs|True" == found
    assert hint.startswith(f"run `chown -R 4321:4322 {place}/x` as root; in a container, mount a volume there")


def test_the_topmost_of_two_mounts_counts(place: Path) -> None:
    """A file system may be mounted over another."""
    steps = [f"mount -t tmpfs none '{place}'", f"mount -t ramfs none '{place}'"]
    assert f"{place}|ramfs|True" == look(place, *steps)[0]


def test_a_kernel_that_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without /proc the mount is unknown, and nothing fails."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "open", refuse)
    assert Mount(Path("/"), "") == mounts.under(tmp_path)
