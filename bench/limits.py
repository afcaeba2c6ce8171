"""A limit of memory, and of CPU, as a container has it: cgroup v2, cgroup v1, or systemd-run."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from bench.rounds import Failed

_CGROUPS = Path("/sys/fs/cgroup")
_PERIOD = 100_000
"""Microseconds in which the CPU is shared out, as container engines have it."""


class MemoryLimit:
    """A limit for the processes that are started behind `prefix`; for `with`, which removes it. No swap helps out."""

    def __init__(self, limit: int, cpus: float | None = None) -> None:
        """Bytes, and CPUs; None: as many as there are."""
        self.limit = limit
        self._cpus = cpus
        self._group: Path | None = None
        self._cpu_group: Path | None = None
        """Of cgroup v1, where the controllers have trees of their own."""
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
        for group in filter(None, (self._group, self._cpu_group)):
            _remove(group)

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
                *([] if self._cpus is None else ["-p", f"CPUQuota={self._cpus:.0%}"]),
            ]
        enter = [f"echo $$ > {group}/cgroup.procs" for group in (self._group, self._cpu_group) if group is not None]
        return ["sh", "-c", " && ".join([*enter, 'exec "$@"']), "sh"]

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

    def anonymous(self) -> int:
        """Bytes charged now that no file could give back: the heaps. Raises `Failed` where it is not known."""
        return self._statistic("anon" if self._is_v2 else "total_rss")

    def working_set(self) -> int:
        """Bytes charged now less the page cache that nobody has used lately, as Kubernetes has it. Raises `Failed`."""
        charged = int(self._read("memory.current" if self._is_v2 else "memory.usage_in_bytes"))
        return charged - self._statistic("inactive_file" if self._is_v2 else "total_inactive_file")

    def _statistic(self, name: str) -> int:
        for line in self._read("memory.stat").splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
        raise Failed(f"the kernel does not say {name}")

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
        """A group below this process' own, so that no limit that is set on this one is left."""
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
    for _attempt in range(100):  # the kernel lets go of a dead process a little later
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.05)
        else:
            return


def _own_group(controller: str) -> str:
    """This process' group: of cgroup v1's controller, or for "" of v2. Raises OSError."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    raise OSError(f"this process is in no {controller or 'v2'} group")
