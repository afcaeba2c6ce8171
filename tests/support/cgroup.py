"""A memory limit that the kernel enforces."""

from __future__ import annotations

from pathlib import Path

from tests.support.container import wait_for


class Cgroup:
    """This test's own memory cgroup, version 1 or 2."""

    def __init__(self, name: str, limit: int) -> None:
        v1 = Path("/sys/fs/cgroup/memory")
        self.v1 = v1.is_dir()
        self.path = (v1 if self.v1 else Path("/sys/fs/cgroup")) / name
        self.path.mkdir()
        (self.path / ("memory.limit_in_bytes" if self.v1 else "memory.max")).write_text(str(limit))

    @property
    def peak(self) -> int:
        """The peak in bytes, including the page cache."""
        return int((self.path / ("memory.max_usage_in_bytes" if self.v1 else "memory.peak")).read_text())

    @property
    def oom_kills(self) -> int:
        """Processes that the kernel killed for lack of memory."""
        text = (self.path / ("memory.oom_control" if self.v1 else "memory.events")).read_text()
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith("oom_kill ")))

    def remove(self) -> None:
        """Remove it, once its processes have ended."""
        wait_for(lambda: not (self.path / "cgroup.procs").read_text(), "an empty cgroup")
        self.path.rmdir()
