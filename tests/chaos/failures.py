"""A disk that is full, or fails, at one step of a life: what may be seen of it then, and what must hold afterwards."""

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
"""Steps that a full disk refuses; fsync where a file system looks for room late."""
_SETTLED = 45.0
"""Seconds until it has told of the failure: devpi-server's SQLite takes a failing disk for a lock, for 30 s."""


@dataclass(frozen=True)
class Plan:
    """Which step of which life fails."""

    life: str
    failure: Failure

    def __str__(self) -> str:
        return f"{self.life};{self.failure}"

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Back from its text."""
        life, _, failure = text.partition(";")
        return cls(life, Failure.parse(failure))


@dataclass
class Outcome:
    """What came of a plan."""

    plan: Plan
    came: bool = False
    """The step was reached."""
    what: str = ""
    """What was seen of it, and what the next start found."""
    violation: str | None = None


def plans(seed: int, recorded: dict[str, list[Kill]]) -> list[Plan]:
    """Every kind of step in every life with ENOSPC, and as many with EIO; steps that no life had yet come first."""
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
    """One that fails after every four that are full; at last the rest."""
    sample = iter(failing)
    for number, plan in enumerate(full):
        yield plan
        if number % 4 == 3:
            yield from itertools.islice(sample, 1)
    yield from sample


def suffer(workshop: Workshop, plan: Plan) -> Outcome:
    """Live with the failure, end, start again with a sound disk, and look."""
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
    """What `/status` tells; None where nobody answers, for the container has ended, or is just doing so."""
    try:
        return str(container.status()["phase"])
    except (OSError, ValueError):
        return None


def _live(container: Container, story: tuple[str, ...], told: Told, outcome: Outcome) -> str:
    """One life. What was seen of the failure, which must be told, and be over where there is room again."""
    seen: list[str] = []
    asked = True  # for the end
    for act in story:
        wrong = _try(container, act, told)
        outcome.came |= steps.died_at(container).exists()
        if wrong is None:
            continue
        expect(outcome.came, f"{act} went wrong without a failure: {wrong}")
        phase = _phase(container)
        if phase is None:
            seen.append(f"{act}: ended with {container.wait_end()}")
            asked = act in ("stop", "repair")
            break
        if phase == "failed":
            seen.append(f"{act}: /status tells that it failed")
            break
        seen.append(f"{act}: went wrong, and then not")
        steps.make_room(container)
        container.wait_ready()
        told.token = None  # a rotation may have ended it
        again = None if act == "start" else _try(container, act, told)
        expect(again is None, f"with room again, {act} still goes wrong: {again}; before: {wrong}")
    code = container.stop() if container.running else container.wait_end()
    outcome.came |= steps.died_at(container).exists()
    _named(code, container, asked)
    no_processes(container)
    _nothing_secret(container, outcome.plan.failure)
    return ", ".join(seen) or "nobody noticed"


def _try(container: Container, act: str, told: Told) -> str | None:
    """What went wrong with an act, once all is told that there is to tell; None: nothing."""
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
            wait_for(lambda: _settled(container), "a word about what went wrong", _SETTLED)
        return f"{type(error).__name__}: {error}"[:500]
    return None


def _settle(container: Container) -> None:
    """Wait until it is ready, or raises AssertionError with what it tells instead."""
    try:
        told = wait_for(lambda: _settled(container), "readiness, an end, or a reason", _SETTLED)
    except AssertionError as error:
        raise Violation(f"it is neither ready, nor at its end, nor says why: {error}") from error
    assert told == "ready", told


def _settled(container: Container) -> str | None:
    """`ready`, or what it tells of its trouble; None: nothing yet."""
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
    """The exit code is one that README explains by a disk that refuses; `asked`: for a stop."""
    if asked:
        expect(code == 0, f"it stopped with {code}")
        return
    own = f"devpi-server exited unexpectedly with code {code}" in container.log
    expect(code == ExitCode.NOT_WRITABLE or own, f"it ended with {code}")


def _nothing_secret(container: Container, failure: Failure) -> None:
    """No half-made secret is left, nor an unfinished file."""
    if failure.name.startswith(("unlink", "rmdir")):  # what can't be removed stays, until the next start
        return
    left = exported.names(container.runtime) - {"lock"} if container.runtime.exists() else set()
    expect(not left, f"in the runtime directory there is {left}")
    own = container.serverdir / ".sidecar"
    unfinished = [path.name for path in own.rglob(".tmp-*")] if own.exists() else []
    expect(not unfinished, f"unfinished files are left: {unfinished}")
    whole = (own / "promotion.json").exists()  # and its password with it: the next start finishes that
    expect(whole or not (own / "staging").exists(), "the staging area is left")
