"""What the chaos tests share, and the tables at the end of a run."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.chaos import failures
from tests.chaos.life import STORIES
from tests.chaos.plans import Outcome, kills_of
from tests.chaos.steps import Kill
from tests.chaos.workshop import Workshop

_OUTCOMES = pytest.StashKey[list[Outcome]]()
_ELAPSED = pytest.StashKey[list[float]]()
_FAILED = pytest.StashKey[list[failures.Outcome]]()
_SEED = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Set one seed for the run."""
    given = config.getoption("--chaos-seed")
    config.stash[_SEED] = random.SystemRandom().randrange(2**32) if given is None else given
    config.stash[_OUTCOMES] = []
    config.stash[_FAILED] = []
    config.stash[_ELAPSED] = []


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    """The source of all randomness of this run."""
    return pytestconfig.stash[_SEED]


@pytest.fixture(scope="session")
def outcomes(pytestconfig: pytest.Config) -> list[Outcome]:
    """The outcome of every kill."""
    return pytestconfig.stash[_OUTCOMES]


@pytest.fixture(scope="session")
def elapsed(pytestconfig: pytest.Config) -> list[float]:
    """Seconds that the kills took, batch by batch."""
    return pytestconfig.stash[_ELAPSED]


@pytest.fixture(scope="session")
def failed(pytestconfig: pytest.Config) -> list[failures.Outcome]:
    """The outcome of every failed step."""
    return pytestconfig.stash[_FAILED]


@dataclass(frozen=True)
class Recorded:
    """One undisturbed life."""

    steps: list[Kill]
    """Each of its steps, as a kill at that step."""
    seconds: float


@pytest.fixture(scope="session")
def recorded(workshop: Workshop) -> dict[str, Recorded]:
    """Every life, recorded once."""
    found = {}
    for life in STORIES:
        began = time.monotonic()
        _, trace, _ = workshop.record(life)
        found[life] = Recorded(kills_of(trace), time.monotonic() - began)
    return found


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """The workshop in which all lives begin."""
    made = Workshop(tmp_path_factory.mktemp("chaos"))
    yield made
    made.fsck.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the tables of steps and their outcomes."""
    if outcomes := config.stash[_OUTCOMES]:
        _tell_kills(terminalreporter, outcomes, config.stash[_SEED], sum(config.stash[_ELAPSED]))
    if failed := config.stash[_FAILED]:
        _tell_failures(terminalreporter, failed, config.stash[_SEED])


def _tell_kills(terminal: pytest.TerminalReporter, outcomes: list[Outcome], seed: int, seconds: float) -> None:
    kills, planned = sum(o.kills for o in outcomes), sum(o.planned for o in outcomes)
    terminal.section(f"chaos: {kills} kills of {planned} planned, seed {seed}")
    rows: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        row = rows.setdefault(f"{outcome.life:7} {outcome.step}", Counter())
        row[f"{outcome.what if outcome.violation is None else 'VIOLATION'} ({outcome.victim} killed)"] += 1
    _table(terminal, rows)
    violations = sum(outcome.violation is not None for outcome in outcomes)
    at_random = sum(outcome.at_random for outcome in outcomes)
    terminal.line(f"{kills} kills, {at_random} of them at random instants, in {seconds:.0f} s")
    terminal.line(f"{len(outcomes)} lives, {violations} with a violation")


def _tell_failures(terminal: pytest.TerminalReporter, failed: list[failures.Outcome], seed: int) -> None:
    terminal.section(f"chaos: {sum(o.came for o in failed)} steps of {len(failed)} planned failed, seed {seed}")
    rows: dict[str, Counter[str]] = {}
    for outcome in failed:
        plan = outcome.plan
        row = rows.setdefault(f"{plan.life:7} {plan.failure.process} {plan.failure.name}", Counter())
        what = "VIOLATION" if outcome.violation else outcome.what if outcome.came else "not reached"
        row[f"{plan.failure.error}, {plan.failure.how}: {what}"] += 1
    _table(terminal, rows)
    terminal.line(f"{len(failed)} lives, {sum(o.violation is not None for o in failed)} with a violation")


def _table(terminal: pytest.TerminalReporter, rows: dict[str, Counter[str]]) -> None:
    for step, row in sorted(rows.items()):
        results = ", ".join(f"{count} x {what}" for what, count in row.most_common())
        terminal.line(f"{row.total():4}  {step}: {results}")
