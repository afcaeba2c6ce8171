"""The disk is full, or fails, at one step of a life: what must be reported then, and what must hold afterwards."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from sidecar.core.errors import ExitCode
from tests.chaos import steps
from tests.chaos.invariants import check, expect, no_processes
from tests.chaos.life import ACTS, DEATHS, STORIES, Told, Violation
from tests.chaos.steps import Failure, Kill
from tests.chaos.workshop import Workshop
from tests.support import exported
from tests.support.container import Container, cleared_away, wait_for

_NEED_ROOM = ("create", "write", "fsync", "syncfs", "rename", "link", "mkdir")
"""Steps that a full disk refuses; also fsync, because some file systems allocate late."""
_SETTLED = 45.0
"""Seconds until the failure is reported: devpi-server's SQLite takes a failing disk for a lock, for 30 s."""


@dataclass(frozen=True)
class Plan:
    """Which step of which life fails."""

    life: str
    failure: Failure

    def __str__(self) -> str:
        return f"{self.life};{self.failure}"

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Parse its text form."""
        life, _, failure = text.partition(";")
        return cls(life, Failure.parse(failure))


@dataclass
class Outcome:
    """The outcome of a plan."""

    plan: Plan
    came: bool = False
    """Whether the step was reached."""
    what: str = ""
    """What was reported, and what the next start found."""
    violation: str | None = None


def plans(seed: int, recorded: dict[str, list[Kill]]) -> list[Plan]:
    """Every kind of step in every life with ENOSPC, and as many with EIO; new steps come first."""
    chance = random.Random(seed)
    kinds: dict[tuple[str, str, str], list[Kill]] = {}
    for life, all_kills in recorded.items():
        for kill in all_kills:
            kinds.setdefault((life, kill.process, kill.name), []).append(kill)
    full: list[Plan] = []
    failing: list[Plan] = []
    for (life, process, name), occurrences in sorted(kinds.items()):
        number = chance.choice(occurrences).number
        if name.partition(" ")[0] in _NEED_ROOM:
            full.append(Plan(life, Failure(process, name, number, "ENOSPC", chance.choice(("once", "full")))))
        failing.append(Plan(life, Failure(process, name, number, "EIO", "once")))
    return list(_mixed(_new_first(full, chance), _new_first(failing, chance)))


def _new_first(all_plans: list[Plan], chance: random.Random) -> list[Plan]:
    chance.shuffle(all_plans)
    seen: set[tuple[str, str]] = set()
    first, later = [], []
    for plan in all_plans:
        kind = (plan.failure.process, plan.failure.name)
        (later if kind in seen else first).append(plan)
        seen.add(kind)
    return first + later


def _mixed(full: list[Plan], failing: list[Plan]) -> Iterator[Plan]:
    """Yield one EIO after every four ENOSPC, then the rest."""
    sample = iter(failing)
    for number, plan in enumerate(full):
        yield plan
        if number % 4 == 3:
            yield from itertools.islice(sample, 1)
    yield from sample


def suffer(workshop: Workshop, plan: Plan) -> Outcome:
    """Live with the failure, stop, start again with a healthy disk, and check."""
    container, told = workshop.begin(plan.life)
    outcome = Outcome(plan)
    steps.watch(container, workshop.library, failure=plan.failure)
    with cleared_away(container):
        try:
            seen = _live(container, STORIES[plan.life], told, outcome)
            steps.let_alone(container)
            outcome.what = f"{seen}; then {check(container, plan.life, told, workshop.fsck)}"
        except Exception as error:
            log = container.log[-4000:] if container.log_file.exists() else ""
            outcome.violation = f"{type(error).__name__}: {error}\n--- told: {told}\n--- its log:\n{log}"
            return outcome
    shutil.rmtree(container.home)
    return outcome


def _phase(container: Container) -> str | None:
    """Return the phase of `/status`; None without an answer: the container has exited, or is about to."""
    try:
        return str(container.status()["phase"])
    except (OSError, ValueError):
        return None


def _live(container: Container, story: tuple[str, ...], told: Told, outcome: Outcome) -> str:
    """Live one life. Return how the failure was reported; it must be, and must end once there is space again."""
    seen: list[str] = []
    asked = True  # before the end
    for act in story:
        wrong = _try(container, act, told)
        outcome.came |= steps.died_at(container).exists()
        if wrong is None:
            continue
        expect(outcome.came, f"{act} failed without a disk failure: {wrong}")
        phase = _phase(container)
        if phase is None:
            seen.append(f"{act}: exited with code {container.wait_end()}")
            asked = act in ("stop", "repair")
            break
        if phase == "failed":
            seen.append(f"{act}: /status reports the failure")
            break
        seen.append(f"{act}: failed, then succeeded")
        steps.make_room(container)
        container.wait_ready()
        told.token = None  # a rotation may have ended it
        again = None if act == "start" else _try(container, act, told)
        expect(again is None, f"with space again, {act} still fails: {again}; before: {wrong}")
    code = container.stop() if container.running else container.wait_end()
    outcome.came |= steps.died_at(container).exists()
    _named(code, container, asked)
    no_processes(container)
    _nothing_secret(container, outcome.plan.failure)
    return ", ".join(seen) or "not noticed"


def _try(container: Container, act: str, told: Told) -> str | None:
    """Return how an act failed, once everything has been reported; None if it didn't."""
    try:
        if act == "start":
            told.stopped = False
            _settle(container.start())
        else:
            ACTS[act](container, told)
    except DEATHS as error:
        if isinstance(error, Violation):
            raise
        expect("Traceback" not in str(error), f"a traceback as an answer: {error}")
        if act != "start" and container.running:
            wait_for(lambda: _settled(container), "a report of the failure", _SETTLED)
        return f"{type(error).__name__}: {error}"[:500]
    return None


def _settle(container: Container) -> None:
    """Wait until it is ready. Raises AssertionError with its own report otherwise."""
    try:
        told = wait_for(lambda: _settled(container), "readiness, an exit, or a reason", _SETTLED)
    except AssertionError as error:
        raise Violation(f"it is not ready, has not exited, and reports no reason: {error}") from error
    assert told == "ready", told


def _settled(container: Container) -> str | None:
    """Return `ready`, or its report of the failure; None: neither yet."""
    if not container.running:
        return "it has ended"
    ready, status = container.get("/readyz", accept="application/json"), container.get("/status")
    for answer in (ready, status):
        expect(b"Traceback" not in answer.body, f"a traceback as an answer: {answer}")
    if ready.status == 200:
        return "ready"
    if status.json["phase"] == "failed":
        return f"failed: {status.json['import']['error']}"
    reasons = [check["reason"] for check in ready.json["checks"] if check["name"] == "write"]
    return next((reason for reason in reasons if "can't write" in reason), None)


def _named(code: int, container: Container, asked: bool) -> None:
    """Check that the exit code is documented for an unwritable disk; `asked`: the stop was requested."""
    if asked:
        expect(code == 0, f"it stopped with code {code}")
        return
    own = f"devpi-server exited unexpectedly with code {code}" in container.log
    expect(code == ExitCode.NOT_WRITABLE or own, f"it exited with code {code}")


def _nothing_secret(container: Container, failure: Failure) -> None:
    """Check that no partial secret or unfinished file is left."""
    if failure.name.startswith(("unlink", "rmdir")):  # files that can't be removed stay until the next start
        return
    left = exported.names(container.runtime) - {"lock"} if container.runtime.exists() else set()
    expect(not left, f"left in the runtime directory: {left}")
    own = container.serverdir / ".sidecar"
    unfinished = [path.name for path in own.rglob(".tmp-*")] if own.exists() else []
    expect(not unfinished, f"unfinished files are left: {unfinished}")
    whole = (own / "promotion.json").exists()  # and its password with it: the next start completes that
    expect(whole or not (own / "staging").exists(), "the staging area is left")
