"""Killed at any instant, and at each write, fsync and rename: the next start finds no loss and no unwanted login.

`invariants.check` defines what must hold; docs/chaos.md describes long runs, and how to reproduce one kill.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos.conftest import Recorded
from tests.chaos.plans import Outcome, Plan, plans, random_plans
from tests.chaos.workshop import Workshop
from tests.support.needs import not_tested

pytestmark = pytest.mark.chaos

AT_ONCE = 2
"""Lives at the same time. Each waits for its own processes; more would only wait for the cores."""
BATCH = 50
"""Kills of one test, so that a long run shows its progress."""
KILLS = 40
"""Kills of a run by default."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Generate one test for each batch of kills."""
    if "batch" in metafunc.fixturenames:
        metafunc.parametrize("batch", range(0, wanted(metafunc.config), BATCH), ids=lambda first: f"from-{first}")


def wanted(config: pytest.Config) -> int:
    """Return how many kills the run shall have."""
    return 1 if config.getoption("--chaos-plan") else int(config.getoption("--kills") or KILLS)


@pytest.fixture(scope="module")
def planned(request: pytest.FixtureRequest, seed: int, pytestconfig: pytest.Config) -> Iterator[Plan]:
    """Return the lives that are killed in this run, each once."""
    if only := pytestconfig.getoption("--chaos-plan"):
        return iter([Plan.parse(only)])
    recorded: dict[str, Recorded] = request.getfixturevalue("recorded")
    lengths = {life: each.seconds for life, each in recorded.items()}
    if pytestconfig.getoption("--random-only"):
        return random_plans(seed, lengths)
    return plans(seed, {life: each.steps for life, each in recorded.items()}, lengths)


def test_stray_processes_would_be_found(workshop: Workshop) -> None:
    """A live container's processes are found by their environment; otherwise "none is left" could not fail."""
    if workshop.unseen:
        not_tested("stray processes: the environment of a live one can't be read (it takes CAP_SYS_PTRACE)")
    assert not workshop.unseen


def test_nothing_is_lost_and_nobody_let_in(
    workshop: Workshop,
    planned: Iterator[Plan],
    batch: int,
    seed: int,
    outcomes: list[Outcome],
    elapsed: list[float],
    pytestconfig: pytest.Config,
) -> None:
    """After every kill all five invariants hold; as many processes as requested did die."""
    kills = min(BATCH, wanted(pytestconfig) - batch)
    came: list[tuple[Plan, Outcome]] = []
    lock = threading.Lock()

    def live_and_die() -> None:
        while True:
            with lock:
                enough = sum(outcome.kills for _, outcome in came) >= kills or len(came) >= 2 * kills
                if enough or (plan := next(planned, None)) is None:
                    return
            outcome = workshop.execute(plan)
            with lock:
                came.append((plan, outcome))

    began = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for each in [pool.submit(live_and_die) for _ in range(AT_ONCE)]:
            each.result()
    elapsed.append(time.monotonic() - began)
    outcomes += [outcome for _, outcome in came]
    violations = [
        f"seed {seed}, life {plan.life!r}, killed at {outcome.step!r} ({outcome.victim}): {outcome.violation}\n"
        f"--- again: pytest tests/chaos/test_kills.py --chaos-plan '{plan}'"
        for plan, outcome in came
        if outcome.violation is not None
    ]
    assert not violations, "\n\n".join(violations)
    hit = sum(outcome.kills for _, outcome in came)
    assert hit >= kills, f"only {hit} of {kills} kills happened, in {len(came)} lives"
