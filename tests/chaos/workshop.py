"""Containers that live, are killed, start again, and are checked."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
from pathlib import Path

from sidecar.core.lifecycle import now
from sidecar.features.bootstrap import import_status
from sidecar.features.bootstrap.import_status import ImportState, ImportStatus
from tests.chaos import steps
from tests.chaos.invariants import PROMPT, Fsck, check, processes
from tests.chaos.life import DEATHS, FILES, FIXED, IMPORTS, PROJECTS, STORIES, TTL, Told, Violation, live, repair
from tests.chaos.plans import Instant, Outcome, Plan
from tests.chaos.steps import Kill
from tests.support import exported
from tests.support.container import Container, alive, children, cleared_away


class Workshop:
    """The basis of all lives: the library, the archive, an unclaimed state; and the steps of each life."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.library = steps.build(home)
        self.unseen: set[int] = set()
        """Live processes of a container that `processes` does not find."""
        self.export = exported.write(home / "export", PROJECTS, FILES)
        self._archive = exported.pack(self.export, home / "export.tar")
        self._damaged = exported.pack(self._damage(), home / "damaged.tar")
        self._state = self._make_state()
        self.fsck = Fsck()
        self._numbers = iter(range(1_000_000))
        self._lock = threading.Lock()

    def _damage(self) -> Path:
        damaged = shutil.copytree(self.export, self.home / "damaged")
        (*_, last) = sorted(damaged.rglob("*.whl"))
        last.write_bytes(last.read_bytes()[:-1] + b"!")
        return damaged

    def _make_state(self) -> Path:
        with cleared_away(Container(self.home / "state")) as container:
            container.start().wait_ready()
            self.unseen = {container.pid, container.devpi_pid} - set(processes(container))
            assert container.stop() == 0
            return container.serverdir

    def begin(self, life: str) -> tuple[Container, Told]:
        """Return a new container at the beginning of a life, and what clients know already."""
        told = Told()
        with self._lock:
            number = next(self._numbers)
        container = Container(self.home / f"life-{number}")
        if life in IMPORTS:
            self.give_archive(container)
        if life == "no-import":
            own = container.serverdir / ".sidecar"
            own.mkdir(parents=True, mode=0o700)
            import_status.save(
                own / "import.json", ImportStatus(ImportState.COMPLETED, started=now(), finished=now()), []
            )
        if life == "refused":
            shutil.move(container.init_dir / "export.tar", container.home / FIXED)
            shutil.copy(self._damaged, container.init_dir / "export.tar")
        if life == "expires":
            container.env["SIDECAR_CLAIM_TTL"] = TTL
        if life in ("later", "adopted"):
            shutil.copytree(self._state, container.serverdir)
        if life == "adopted":
            told.password = json.loads((self._state / ".sidecar" / "root-password.json").read_text())["password"]
            shutil.rmtree(container.serverdir / ".sidecar")
            orphan = container.serverdir / "+files/root/dev/+f/abc" / f"killed-1.0.tar.gz-{64 * 'a'}-tmp"
            orphan.parent.mkdir(parents=True)
            orphan.write_bytes(b"what a devpi-server had written of an upload when it was killed")
        return container, told

    def give_archive(self, container: Container) -> None:
        """Let it import, if its serverdir is empty."""
        container.init_dir.mkdir()
        shutil.copy(self._archive, container.init_dir)

    def record(self, life: str) -> tuple[Container, Path, Told]:
        """Record a whole life: the container, which has exited, the trace, and what clients were told."""
        container, told = self.begin(life)
        trace = container.home / "trace"
        steps.watch(container, self.library, trace=trace)
        with cleared_away(container):
            live(container, STORIES[life], told)
        steps.let_alone(container)
        return container, trace, told

    def execute(self, plan: Plan) -> Outcome:
        """Live, be killed, start again, and check."""
        container, told = self.begin(plan.life)
        outcome = Outcome(plan.life, "", "", "", planned=len(plan.kills))
        with cleared_away(container):
            try:
                self._kill(container, plan, told, outcome)
                steps.let_alone(container)
                outcome.what = check(container, plan.life, told, self.fsck)
            except Exception as error:
                log = container.log[-3000:] if container.log_file.exists() else ""
                outcome.violation = f"{type(error).__name__}: {error}\n--- told: {told}\n--- its log:\n{log}"
                return outcome
        shutil.rmtree(container.home)
        return outcome

    def _kill(self, container: Container, plan: Plan, told: Told, outcome: Outcome) -> None:
        story = STORIES[plan.life]
        for kill in plan.kills:
            outcome.victim = kill.victim
            if isinstance(kill, Kill):
                outcome.step = f"{kill.process} {kill.name}"
                outcome.victim += " (torn)" if kill.how == "torn" else ""
                steps.watch(container, self.library, kill=kill)
                try:
                    live(container, story, told)
                except DEATHS as error:
                    if not steps.died_at(container).exists():
                        raise
                    end(container, error)
                reached = steps.died_at(container).exists()
            else:
                outcome.step = "random instant"
                steps.let_alone(container)
                hit: list[int] = []
                timer = threading.Timer(kill.seconds, kill_now, (container, kill.victim, hit))
                timer.start()
                try:
                    live(container, story, told)
                except DEATHS as error:
                    if not hit:
                        raise
                    timer.join()
                    end(container, error)
                finally:
                    timer.cancel()
                    timer.join()
                reached = bool(hit)
            if reached:
                outcome.kills += 1
                outcome.at_random += isinstance(kill, Instant)
            else:
                outcome.step, outcome.victim = f"{outcome.step} (not reached)", "nobody"
            if container.running:  # the kill hit an exiting process, or came too late
                container.stop()
            repair(container)
            story = ("start", "stop")


def kill_now(container: Container, victim: str, hit: list[int]) -> None:
    """Send SIGKILL to the `sidecar`, its `child` or `both`, if alive; `hit` gets their ids, before they die."""
    with contextlib.suppress(OSError, AssertionError, ValueError):
        pids = [] if victim == "sidecar" else children(container.pid)
        for pid in [*pids, *([] if victim == "child" else [container.pid])]:
            if alive(pid):
                hit.append(pid)
                os.kill(pid, signal.SIGKILL)


def end(container: Container, met: BaseException) -> None:
    """Wait until the container, some process of which was killed, exits by itself as it should."""
    if container.running and _phase(container) == "failed":  # while exiting, or the import's preparation was killed
        container.stop()
    try:
        container.wait_end(PROMPT)
    except Exception:
        raise Violation(f"it still runs {PROMPT:.0f} s after the kill; the client met {met!r}") from met


def _phase(container: Container) -> str | None:
    with contextlib.suppress(*DEATHS):
        return str(container.status()["phase"])
    return None
