"""A memory limit as a container has it: cgroup v2, cgroup v1, or systemd-run."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from bench.rounds import Failed

_CGROUPS = Path("/sys/fs/cgroup")


class MemoryLimit:
    """A limit for the processes that are started behind `prefix`; for `with`, which removes it. No swap helps out."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._group: Path | None = None
        self._is_v2 = False
        self._scope = f"devpi-bench-{os.getpid()}-{time.monotonic_ns()}"

    def __enter__(self) -> MemoryLimit:
        """Raises `Failed` where no way works, with the reason of each."""
        reasons: list[str] = []
        for attempt in (self._v2, self._v1, self._systemd):
            try:
                attempt()
            except OSError as error:
                reasons.append(f"{attempt.__name__.strip('_')}: {error}")
            else:
                return self
        raise Failed(f"no memory limit can be set here ({'; '.join(reasons)})")

    def __exit__(self, *_: object) -> None:
        if self._group is None:
            return
        for _attempt in range(100):  # the kernel lets go of a dead process a little later
            try:
                self._group.rmdir()
            except OSError:
                time.sleep(0.05)
            else:
                return

    @property
    def prefix(self) -> list[str]:
        """What to put before a command; the process stays the same one."""
        if self._group is None:
            swap = ["-p", "MemorySwapMax=0"]
            return [
                "systemd-run",
                "--scope",
                "--quiet",
                f"--unit={self._scope}",
                "-p",
                f"MemoryMax={self.limit}",
                *swap,
            ]
        return ["sh", "-c", f'echo $$ > {self._group}/cgroup.procs && exec "$@"', "sh"]

    @property
    def how(self) -> str:
        """In words, for a note."""
        return "systemd-run" if self._group is None else f"cgroup {'v2' if self._is_v2 else 'v1'}"

    def kills(self) -> int:
        """How many processes the kernel has killed for this limit. Raises `Failed` where it does not say."""
        file = "memory.events" if self._is_v2 else "memory.oom_control"
        for line in self._read(file).splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        raise Failed("the kernel does not count what it kills")

    def peak(self) -> int:
        """The most bytes ever charged to the limit, page cache included. Raises `Failed` where it is not known."""
        return int(self._read("memory.peak" if self._is_v2 else "memory.max_usage_in_bytes"))

    def _read(self, name: str) -> str:
        if self._group is None:
            raise Failed("systemd-run's scope can't be looked into")
        try:
            return (self._group / name).read_text()
        except OSError as error:
            raise Failed(f"{name} can't be read: {error.strerror}") from error

    def _v2(self) -> None:
        parent = _CGROUPS / _own_group("").lstrip("/")
        if "memory" not in (parent / "cgroup.subtree_control").read_text().split():
            raise OSError("the memory controller is not given to groups below this one")
        self._make(parent)
        self._is_v2 = True
        self._write("memory.max", self.limit)
        self._write("memory.swap.max", 0, needed=False)

    def _v1(self) -> None:
        self._make(_CGROUPS / "memory" / _own_group("memory").lstrip("/"))
        self._write("memory.limit_in_bytes", self.limit)
        self._write("memory.memsw.limit_in_bytes", self.limit, needed=False)

    def _systemd(self) -> None:
        if shutil.which("systemd-run") is None:
            raise OSError("not installed")
        tried = subprocess.run(
            ["systemd-run", "--scope", "--quiet", "true"], capture_output=True, text=True, check=False
        )
        if tried.returncode:
            raise OSError(tried.stderr.strip())

    def _make(self, parent: Path) -> None:
        """A group below this process' own, so that no limit that is set on this one is left."""
        group = parent / self._scope
        group.mkdir()
        self._group = group

    def _write(self, name: str, value: int, *, needed: bool = True) -> None:
        assert self._group is not None
        try:
            (self._group / name).write_text(str(value))
        except OSError:
            if needed:
                self._group.rmdir()
                self._group = None
                raise


def _own_group(controller: str) -> str:
    """This process' group: of cgroup v1's controller, or for "" of v2. Raises OSError."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    raise OSError(f"this process is in no {controller or 'v2'} group")
