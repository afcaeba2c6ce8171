"""Stops at random instants of a start: how each is planned, carried out and judged."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from sidecar.core.errors import Exit
from sidecar.storage.inspection import Content, Storage, examine
from tests.support.container import ENTRYPOINT, PATIENCE, Container, children, cleared_away, wait_for

NUMBERS = (signal.SIGTERM, signal.SIGINT)
UNSHARE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@dataclass(frozen=True)
class Way:
    """How the entrypoint is started."""

    pid_1: bool
    """As the first process of a PID namespace, where the kernel drops a signal without a handler."""
    blocked: bool
    """With SIGTERM and SIGINT blocked by its parent, as in the image: the first instant is then that of exec.
    Otherwise it is the instant at which the handlers exist: Python's own start comes before."""

    init: bool = False
    """Under tini, which is PID 1 in the image."""

    @property
    def command(self) -> tuple[str, ...]:
        """A `Container.command`."""
        return (*(UNSHARE if self.pid_1 else ()), *(("tini", "--") if self.init else ()), *ENTRYPOINT)


WAYS = {
    "plain": Way(pid_1=False, blocked=False),
    "blocked": Way(pid_1=False, blocked=True),
    "PID 1": Way(pid_1=True, blocked=False),
    "PID 1, blocked": Way(pid_1=True, blocked=True),
    "as in the image": Way(pid_1=True, blocked=True, init=True),
}


@dataclass(frozen=True)
class Plan:
    """One stop."""

    delay: float
    """Seconds from the first instant."""
    numbers: tuple[signal.Signals, ...]
    """One signal, or two."""
    gap: float
    """Seconds between two."""

    @classmethod
    def at_random(cls, rng: random.Random, span: float) -> Plan:
        """Most instants are early ones, at most `span` seconds; one stop in three has a second signal."""
        numbers = tuple(rng.choice(NUMBERS) for _ in range(2 if rng.random() < 1 / 3 else 1))
        return cls(span * rng.random() ** 2, numbers, rng.choice((0.0, 0.001, 0.01, 0.1)) * rng.random())

    def __str__(self) -> str:
        names = f", {self.gap * 1000:.1f} ms, ".join(number.name for number in self.numbers)
        return f"{self.delay * 1000:.1f} ms, {names}"


class Start:
    """One start of the entrypoint."""

    def __init__(self, container: Container, way: Way) -> None:
        self.container = container
        container.command = way.command
        reader, writer = os.pipe()
        self._output = reader
        if way.blocked:
            signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
        try:
            self.process = subprocess.Popen(
                container.arguments,
                env=container.given_environ,
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                cwd=container.home,
                start_new_session=True,
            )
        finally:
            if way.blocked:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)
            os.close(writer)
        container.process = self.process
        self.pid = wait_for(self._first_child, "its PID namespace") if way.pid_1 else self.process.pid
        if not way.blocked:
            wait_for(lambda: self.process.poll() is not None or catches(self.pid), "its handlers")

    def _first_child(self) -> int | None:
        return next(iter(children(self.process.pid)), None)

    def send(self, number: int) -> None:
        """Do nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self) -> tuple[int, str]:
        """Its exit code and all output, which ends when no process is left that could write any."""
        said = b""
        deadline = time.monotonic() + PATIENCE
        try:
            while select.select([self._output], [], [], max(0.0, deadline - time.monotonic()))[0]:
                if not (part := os.read(self._output, 65536)):
                    return self.process.wait(PATIENCE), said.decode(errors="replace")
                said += part
        finally:
            os.close(self._output)
        state = "has ended, and left a process" if self.process.poll() is not None else "goes on"
        raise AssertionError(f"it {state}:\n{said.decode(errors='replace')}")


def catches(pid: int) -> bool:
    """Whether the process has a handler for SIGTERM, which the entrypoint installs after that for SIGINT."""
    try:
        (mask,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt")]
    except OSError:
        return False
    return bool(int(mask.split()[1], 16) & 1 << (signal.SIGTERM - 1))


def stop_once(home: Path, way: Way, plan: Plan) -> str | None:
    """Start it on a new serverdir, and stop it so. Return what is wrong; None: nothing."""
    with cleared_away(Container(home)) as container:
        start = Start(container, way)
        pass_by(plan.delay)
        for number in plan.numbers:
            start.send(number)
            pass_by(plan.gap)
        try:
            code, said = start.end()
        except AssertionError as error:
            return str(error)
        wrong = [f"code {code}"] if code else []
        wrong += ["a traceback"] if "Traceback" in said or "Exception" in said else []
        wrong += left_behind(container)
        return f"{', '.join(wrong)}:\n{said}" if wrong else None


def left_behind(container: Container) -> list[str]:
    """What a stop should not have left."""
    own = container.serverdir / ".sidecar"
    kept = {path.name for path in own.iterdir()} if own.exists() else set()
    wrong = [f".sidecar/{name}" for name in kept if name.startswith(".tmp") or name in {"staging", "promotion.json"}]
    if container.runtime.exists():
        wrong += [f"runtime/{path.name}" for path in container.runtime.iterdir() if path.name != "lock"]
    wrong += [f"{path} is held" for path in (own / "lock", container.runtime / "lock") if is_held(path)]
    if container.serverdir.exists():
        try:
            content = examine(container.serverdir, Storage("sqlite"))
        except Exit as error:
            return [*wrong, error.reason]
        if content is Content.FOREIGN:
            wrong.append("a state without its mark")
    return wrong


def is_held(lock: Path) -> bool:
    """Whether a process holds this lock; False without the file."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def until_ready(container: Container) -> float:
    """Seconds from the handlers to ready, of a start without a stop."""
    start = Start(container, WAYS["plain"])
    began = time.monotonic()
    container.wait_ready()
    took = time.monotonic() - began
    start.send(signal.SIGTERM)
    code, said = start.end()
    assert code == 0, said
    return took


def pass_by(seconds: float) -> None:
    """Wait until an instant, exactly: `sleep` alone may be late by a time slice."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(left / 2 if left > 0.002 else 0)
