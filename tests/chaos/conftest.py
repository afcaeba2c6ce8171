"""What the chaos tests share, and the table at their end."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.chaos.plans import Outcome
from tests.chaos.workshop import Workshop

_OUTCOMES = pytest.StashKey[list[Outcome]]()
_SEED = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """One seed for the run."""
    given = config.getoption("--chaos-seed")
    config.stash[_SEED] = random.SystemRandom().randrange(2**32) if given is None else given
    config.stash[_OUTCOMES] = []


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    """Where all chance of this run comes from."""
    return pytestconfig.stash[_SEED]


@pytest.fixture(scope="session")
def outcomes(pytestconfig: pytest.Config) -> list[Outcome]:
    """What became of every kill."""
    return pytestconfig.stash[_OUTCOMES]


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """What all lives begin from."""
    made = Workshop(tmp_path_factory.mktemp("chaos"))
    yield made
    made.fsck.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The table of steps, kills and outcomes."""
    outcomes = config.stash[_OUTCOMES]
    if not outcomes:
        return
    kills, planned = sum(o.kills for o in outcomes), sum(o.planned for o in outcomes)
    terminalreporter.section(f"chaos: {kills} kills of {planned} planned, seed {config.stash[_SEED]}")
    rows: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        row = rows.setdefault(f"{outcome.life:6} {outcome.step}", Counter())
        row[f"{outcome.what if outcome.violation is None else 'VIOLATION'} ({outcome.victim} killed)"] += 1
    for step, row in sorted(rows.items()):
        results = ", ".join(f"{count} x {what}" for what, count in row.most_common())
        terminalreporter.line(f"{row.total():4}  {step}: {results}")
    violations = sum(outcome.violation is not None for outcome in outcomes)
    terminalreporter.line(f"{len(outcomes)} lives, {violations} with a violation")
