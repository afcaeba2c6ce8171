"""A limit of memory and CPU, as for a container: cgroup v2, cgroup v1, or systemd-run."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from bench.rounds import Failed

_CGROUPS = Path("/sys/fs/cgroup")
_PERIOD = 100_000
"""Period of the CPU quota in microseconds, as in container engines."""


class MemoryLimit:
    """A limit, without swap, for processes started with `prefix`; for `with`, which removes it."""

    def __init__(self, limit: int, cpus: float | None = None) -> None:
        """`limit` in bytes; `cpus` None: all."""
        self.limit = limit
        self._cpus = cpus
        self._group: Path | None = None
        self._cpu_group: Path | None = None
        """Of cgroup v1, in which each controller has its own tree."""
        self._is_v2 = False
        self._scope = f"devpi-bench-{os.getpid()}-{time.monotonic_ns()}"

    def __enter__(self) -> MemoryLimit:
        """Raises `Failed` with all reasons if no way works."""
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
        for group in filter(None, (self._group, self._cpu_group)):
            _remove(group)

    @property
    def prefix(self) -> list[str]:
        """Return the prefix of a command; it does not add a process."""
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
                *([] if self._cpus is None else ["-p", f"CPUQuota={self._cpus:.0%}"]),
            ]
        enter = [f"echo $$ > {group}/cgroup.procs" for group in (self._group, self._cpu_group) if group is not None]
        return ["sh", "-c", " && ".join([*enter, 'exec "$@"']), "sh"]

    @property
    def how(self) -> str:
        """Return the mechanism, for a note."""
        return "systemd-run" if self._group is None else f"cgroup {'v2' if self._is_v2 else 'v1'}"

    def kills(self) -> int:
        """Return how many processes the kernel has killed at this limit. Raises `Failed` if it is unknown."""
        file = "memory.events" if self._is_v2 else "memory.oom_control"
        for line in self._read(file).splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        raise Failed("the kernel does not count killed processes")

    def peak(self) -> int:
        """Return the peak bytes charged to the limit, page cache included. Raises `Failed` if it is unknown."""
        return int(self._read("memory.peak" if self._is_v2 else "memory.max_usage_in_bytes"))

    def anonymous(self) -> int:
        """Return the bytes charged now without page cache (heaps). Raises `Failed` if it is unknown."""
        return self._statistic("anon" if self._is_v2 else "total_rss")

    def working_set(self) -> int:
        """Return the bytes charged now without inactive page cache, as in Kubernetes. Raises `Failed`."""
        charged = int(self._read("memory.current" if self._is_v2 else "memory.usage_in_bytes"))
        return charged - self._statistic("inactive_file" if self._is_v2 else "total_inactive_file")

    def _statistic(self, name: str) -> int:
        for line in self._read("memory.stat").splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
        raise Failed(f"the kernel does not report {name}")

    def _read(self, name: str) -> str:
        if self._group is None:
            raise Failed("systemd-run's scope can't be read")
        try:
            return (self._group / name).read_text()
        except OSError as error:
            raise Failed(f"{name} can't be read: {error.strerror}") from error

    def _v2(self) -> None:
        parent = _CGROUPS / _own_group("").lstrip("/")
        if "memory" not in (parent / "cgroup.subtree_control").read_text().split():
            raise OSError("the memory controller is not enabled for groups below this one")
        self._make(parent)
        self._is_v2 = True
        self._write("memory.max", self.limit)
        self._write("memory.swap.max", 0, needed=False)
        if self._cpus is not None:
            self._write("cpu.max", f"{int(self._cpus * _PERIOD)} {_PERIOD}")

    def _v1(self) -> None:
        self._make(_CGROUPS / "memory" / _own_group("memory").lstrip("/"))
        self._write("memory.limit_in_bytes", self.limit)
        self._write("memory.memsw.limit_in_bytes", self.limit, needed=False)
        if self._cpus is not None:
            group = _CGROUPS / "cpu" / _own_group("cpu").lstrip("/") / self._scope
            group.mkdir()
            self._cpu_group = group
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD))
            (group / "cpu.cfs_quota_us").write_text(str(int(self._cpus * _PERIOD)))

    def _systemd(self) -> None:
        if shutil.which("systemd-run") is None:
            raise OSError("not installed")
        tried = subprocess.run(
            ["systemd-run", "--scope", "--quiet", "true"], capture_output=True, text=True, check=False
        )
        if tried.returncode:
            raise OSError(tried.stderr.strip())

    def _make(self, parent: Path) -> None:
        """Create a group below this process' own, so that the limits of this one still apply."""
        group = parent / self._scope
        group.mkdir()
        self._group = group

    def _write(self, name: str, value: int | str, *, needed: bool = True) -> None:
        assert self._group is not None
        try:
            (self._group / name).write_text(str(value))
        except OSError:
            if needed:
                self._group.rmdir()
                self._group = None
                raise


def _remove(group: Path) -> None:
    for _attempt in range(100):  # the kernel releases a dead process a little later
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.05)
        else:
            return


def _own_group(controller: str) -> str:
    """Return this process' group: of cgroup v1's controller, or of v2 for "". Raises OSError."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    raise OSError(f"this process is in no {controller or 'v2'} group")
