"""Volumes that a test can fill, break and detach. Requires root and a loop device; otherwise the test is skipped."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import needs
from tests.support.container import wait_for

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2


@dataclass
class Volume:
    """A test's own file system, mounted."""

    path: Path
    source: str
    kind: str
    options: str

    def mount(self) -> None:
        """Skips the test if that is impossible."""
        self.path.mkdir(exist_ok=True)
        done = _run("mount", "-t", self.kind, "-o", self.options, self.source, self.path)
        if done.returncode != 0:
            pytest.skip(f"NOT TESTED: no {self.kind} can be mounted here: {done.stderr.strip()}")

    def remount(self, options: str) -> None:
        """Remount it with these options."""
        done = _run("mount", "-o", f"remount,{options}", self.path)
        assert done.returncode == 0, done

    def unmount(self) -> None:
        """Detach it at once, like a node that loses its storage: open files stay open."""
        done = _run("umount", "-l", self.path)
        assert done.returncode == 0, done

    def renew(self) -> None:
        """Mount it again, once no process uses the old mount: before, it would be the same one, still broken.

        Mount namespaces that another test created meanwhile hold it, too.
        """

        def released() -> bool:
            found = _run("losetup", "--associated", self.source)
            assert found.returncode == 0, found
            return not found.stdout

        self.unmount()
        wait_for(released, f"the end of the loop device of {self.source}")
        self.mount()

    def fill(self) -> None:
        """Fill it to the last byte."""
        with suppress(OSError), (self.path / "ballast").open("ab", buffering=0) as ballast:
            for size in (2**20, 4096):
                with suppress(OSError):
                    while ballast.write(bytes(size)):
                        pass

    def free(self) -> None:
        """Undo `fill`."""
        (self.path / "ballast").unlink()

    def break_down(self) -> None:
        """Fail all access with EIO from now on (ext4 only); nothing more reaches the disk."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(descriptor)


@contextmanager
def tmpfs(path: Path, size: str) -> Iterator[Volume]:
    """A small one in memory."""
    volume = Volume(path, "none", "tmpfs", f"size={size},mode=700")
    volume.mount()
    try:
        yield volume
    finally:
        _run("umount", "-l", path)


@contextmanager
def ext4(path: Path) -> Iterator[Volume]:
    """One of 64 MiB on a loop device that turns read-only after an error."""
    needs.root("make and mount a file system")
    image = path.with_name(f"{path.name}.ext4")
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    made = _run("mkfs.ext4", "-q", image)
    assert made.returncode == 0, made
    volume = Volume(path, str(image), "ext4", "loop,errors=remount-ro")
    volume.mount()
    try:
        yield volume
    finally:
        _run("umount", "-l", path)


@contextmanager
def thin(path: Path) -> Iterator[tuple[Volume, Volume]]:
    """An ext4 with a nominal 64 MiB on a tmpfs of 24 MiB: when that is full, the kernel loses writes."""
    needs.root("make and mount a file system")
    with tmpfs(path.with_name(f"{path.name}.below"), "24m") as below:
        image = below.path / "image"
        with image.open("wb") as file:
            file.truncate(64 * 2**20)
        made = _run("mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=1", "-O", "^has_journal", image)
        assert made.returncode == 0, made
        volume = Volume(path, str(image), "ext4", "loop")
        volume.mount()
        try:
            yield volume, below
        finally:
            _run("umount", "-l", path)


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
