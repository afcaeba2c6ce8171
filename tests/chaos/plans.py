"""Where lives are killed: endless plans from a seed."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import steps
from tests.chaos.steps import Kill


@dataclass
class Outcome:
    """The outcome of one killed life."""

    life: str
    step: str
    """Where: a step's name, or `random instant`; with several kills, that of the last one."""
    victim: str
    what: str
    """What the next start found."""
    planned: int
    """Planned kills."""
    kills: int = 0
    """Kills that were sent to a live process."""
    at_random: int = 0
    """Those of them at a random instant."""
    violation: str | None = None


@dataclass(frozen=True)
class Instant:
    """SIGKILL a number of seconds into a life, whatever happens then; `victim` as in `Kill`."""

    seconds: float
    victim: str

    def __str__(self) -> str:
        return f"{self.seconds:.3f}@{self.victim}"

    @classmethod
    def parse(cls, text: str) -> Instant:
        """Parse its text form."""
        seconds, _, victim = text.partition("@")
        return cls(float(seconds), victim)


@dataclass(frozen=True)
class Plan:
    """Which life is killed where; the second kill is for the start after the first one."""

    life: str
    kills: tuple[Kill | Instant, ...]

    def __str__(self) -> str:
        return ";".join([self.life, *map(str, self.kills)])

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Parse its text form."""
        life, *kills = text.split(";")
        return cls(life, tuple(Kill.parse(kill) if "|" in kill else Instant.parse(kill) for kill in kills))


def plans(seed: int, recorded: dict[str, list[Kill]], lengths: dict[str, float]) -> Iterator[Plan]:
    """Endless plans: three of four at steps, all kinds of step before any is repeated.

    `recorded`: every step of each life, as a kill of the process that takes it; `lengths`: of each life, in seconds.
    """
    chance = random.Random(seed)
    at_steps = _every_kind(chance, recorded)
    for number in itertools.count():
        if number % 4 == 3:
            life = chance.choice(sorted(lengths))
            plan = Plan(life, (_instant(chance, lengths[life]),))
        else:
            plan = next(at_steps)
        if chance.random() < 0.2:  # kill the start that repairs it, too
            second = Kill("sidecar", "*", chance.randint(1, 45), "both", chance.choice(("whole", "torn")))
            plan = Plan(plan.life, (*plan.kills, second))
        yield plan


_START = 2.0
"""Seconds for the start that repairs a kill, and is killed itself."""


def random_plans(seed: int, lengths: dict[str, float]) -> Iterator[Plan]:
    """Endless plans, all at random instants; in one of five, the start that repairs it is killed, too."""
    chance = random.Random(seed)
    while True:
        life = chance.choice(sorted(lengths))
        kills = (_instant(chance, lengths[life]),)
        yield Plan(life, (*kills, _instant(chance, _START)) if chance.random() < 0.2 else kills)


def _instant(chance: random.Random, length: float) -> Instant:
    return Instant(round(chance.uniform(0, length), 3), chance.choice(("sidecar", "child", "both")))


def _every_kind(chance: random.Random, recorded: dict[str, list[Kill]]) -> Iterator[Plan]:
    kinds: dict[tuple[str, str, str], list[Kill]] = {}
    for life, all_kills in recorded.items():
        for kill in all_kills:
            kinds.setdefault((life, kill.process, kill.name), []).append(kill)
    for occurrences in kinds.values():
        chance.shuffle(occurrences)
    used = 0
    while True:
        order = sorted(kinds)
        chance.shuffle(order)
        for kind in order:
            kill = kinds[kind][used % len(kinds[kind])]
            how = "torn" if kill.name.startswith("write") and chance.random() < 0.5 else "whole"
            victim = chance.choice(("self", "sidecar", "child", "both"))
            yield Plan(kind[0], (Kill(kill.process, kill.name, kill.number, victim, how),))
        used += 1


def kills_of(trace: Path) -> list[Kill]:
    """Every step of a recorded life, as a kill at it; a process counts its own steps."""
    counted: Counter[tuple[int, str]] = Counter()
    found: dict[Kill, None] = {}
    for _, step in steps.read(trace):
        counted[step.pid, step.name] += 1
        found[Kill(step.process, step.name, counted[step.pid, step.name], "self")] = None
    return list(found)
