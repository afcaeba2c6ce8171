"""Killed at any instant, and at each write, fsync and rename: the next start finds nothing lost and nobody let in.

What must hold is in `life.check`; how to run it for hours, and how to reproduce one kill, in docs/chaos.md.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos.life import STORIES, Outcome, Plan, Workshop, kills_of, plans

pytestmark = pytest.mark.chaos

AT_ONCE = 2
"""Lives at a time. Each waits for its own processes; more would only wait for the cores."""
BATCH = 50
"""Kills of one test, so that a long run tells how far it is."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each batch of kills."""
    if "batch" in metafunc.fixturenames:
        kills = 1 if metafunc.config.getoption("--chaos-plan") else metafunc.config.getoption("--kills")
        metafunc.parametrize("batch", range(0, kills, BATCH), ids=lambda first: f"from-{first}")


@pytest.fixture(scope="module")
def planned(workshop: Workshop, seed: int, pytestconfig: pytest.Config) -> list[Plan]:
    """Every life that is killed in this run."""
    if only := pytestconfig.getoption("--chaos-plan"):
        return [Plan.parse(only)]
    recorded, lengths = {}, {}
    for life in STORIES:
        begin = time.monotonic()
        _, trace, _ = workshop.record(life)
        lengths[life] = time.monotonic() - begin
        recorded[life] = kills_of(trace)
    return plans(seed, pytestconfig.getoption("--kills"), recorded, lengths)


def test_nothing_is_lost_and_nobody_let_in(
    workshop: Workshop, planned: list[Plan], batch: int, seed: int, outcomes: list[Outcome]
) -> None:
    """After every kill all five invariants hold."""
    mine, first = [], 0
    for plan in planned:
        if batch <= first < batch + BATCH:
            mine.append(plan)
        first += len(plan.kills)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        came = list(pool.map(workshop.execute, mine))
    outcomes += came
    violations = [
        f"seed {seed}, life {plan.life!r}, killed at {outcome.step!r} ({outcome.victim}): {outcome.violation}\n"
        f"--- again: pytest tests/chaos/test_kills.py --chaos-plan '{plan}'"
        for plan, outcome in zip(mine, came, strict=True)
        if outcome.violation is not None
    ]
    assert not violations, "\n\n".join(violations)
