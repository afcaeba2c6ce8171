"""Memory and CPU time of a process and its descendants, from /proc."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Self

_TICKS = os.sysconf("SC_CLK_TCK")
MIB = 2**20


def tree(root: int, *, all_threads: bool = True) -> list[int]:
    """Return `root` and its living descendants; without `all_threads`, only children of main threads."""
    found: list[int] = []
    todo = [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        with contextlib.suppress(OSError):
            for thread in _threads(pid) if all_threads else [pid]:
                with contextlib.suppress(OSError):
                    todo += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def is_there(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return _stat(pid)[0] != "Z"
    except OSError:
        return False


def pss(pids: list[int]) -> int:
    """Return the sum of the proportional set sizes in bytes: shared pages count once."""
    return sum(_field(pid, "smaps_rollup", "Pss:") for pid in pids)


def rss(pid: int) -> int:
    """Return resident bytes. Raises OSError if the process no longer exists."""
    return _needed(pid, "VmRSS:")


def peak_rss(pid: int) -> int:
    """Return the peak of resident bytes. Raises OSError if the process no longer exists."""
    return _needed(pid, "VmHWM:")


def cpu(root: int) -> float:
    """Return CPU seconds of the process, its descendants, and their exited children, in ticks of 10 ms."""
    total = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            total += sum(map(int, _stat(pid)[11:15]))  # utime, stime, cutime, cstime
    return total / _TICKS


def own_cpu(pid: int) -> float:
    """Return CPU seconds of one process with all its threads, in nanosecond steps if the kernel has them."""
    try:
        total = sum(
            int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0]) for thread in _threads(pid)
        )
    except (OSError, ValueError):
        total = 0
    return total / 1e9 if total else sum(map(int, _stat(pid)[11:13])) / _TICKS


def wakes(pid: int) -> int:
    """Return how often the process' threads have slept, and so been woken up."""
    return sum(_field(thread, "status", "voluntary_ctxt_switches:", 1) for thread in _threads(pid))


def _threads(pid: int) -> list[int]:
    return [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _needed(pid: int, name: str) -> int:
    if value := _field(pid, "status", name):
        return value
    raise OSError(f"process {pid} no longer exists")


def _field(pid: int, file: str, name: str, factor: int = 1024) -> int:
    try:
        with Path(f"/proc/{pid}/{file}").open() as lines:
            for line in lines:
                if line.startswith(name):
                    return int(line.split()[1]) * factor
    except OSError:
        pass
    return 0


class _Background:
    """Runs `_run` in a thread within `with`."""

    def __init__(self) -> None:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        raise AssertionError("a subclass must define _run")


class Sampler(_Background):
    """Samples the memory of a process tree every few milliseconds within `with`."""

    def __init__(self, root: int, interval: float = 0.01) -> None:
        super().__init__()
        self.root = root
        self.peak = 0
        """The peak of the sum of PSS, bytes."""
        self.samples = 0
        self._interval = interval

    def _run(self) -> None:
        due = time.monotonic()
        others: set[int] = set()
        while not self._end.is_set():
            if self.samples % 20 == 0:  # reading the children of 50 threads each time would dominate
                others = set(tree(self.root))
            self.peak = max(self.peak, pss(sorted(others | set(tree(self.root, all_threads=False)))))
            self.samples += 1
            due = max(due + self._interval, time.monotonic())
            self._end.wait(due - time.monotonic())


class RssWatch(_Background):
    """Samples the resident bytes of one process within `with`."""

    def __init__(self, pid: int, interval: float = 0.25) -> None:
        super().__init__()
        self.values: list[int] = []
        self._pid = pid
        self._interval = interval

    def _run(self) -> None:
        while not self._end.is_set():
            with contextlib.suppress(OSError):
                self.values.append(rss(self._pid))
            self._end.wait(self._interval)
