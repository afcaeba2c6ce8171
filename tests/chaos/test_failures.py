"""The disk is full, or fails, at any step: that is reported, it recovers or exits, and the next start finds no loss.

`failures` and `invariants.check` define what must hold; docs/chaos.md describes how to try every step.
"""

from __future__ import annotations

import faulthandler
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos.conftest import Recorded
from tests.chaos.failures import Outcome, Plan, plans, suffer
from tests.chaos.workshop import Workshop

pytestmark = pytest.mark.chaos

AT_ONCE = 2
"""Lives at the same time."""
BUDGET = 75.0
"""Seconds in which lives begin by default; those that have begun take some more to end."""


def test_a_disk_that_refuses(
    workshop: Workshop,
    request: pytest.FixtureRequest,
    seed: int,
    failed: list[Outcome],
    pytestconfig: pytest.Config,
) -> None:
    """A documented exit code or a report on `/status`, no secret left; with a healthy disk all five invariants hold."""
    number = pytestconfig.getoption("--failures")
    if only := pytestconfig.getoption("--chaos-failure"):
        planned = [Plan.parse(only)]
    else:
        recorded: dict[str, Recorded] = request.getfixturevalue("recorded")
        planned = plans(seed, {life: each.steps for life, each in recorded.items()})
    bounded = number is None and not only
    if not bounded:
        faulthandler.cancel_dump_traceback_later()  # pytest's own limit, should a test hang
    chosen = iter(planned[: number or None])
    lock, began = threading.Lock(), time.monotonic()

    def live() -> None:
        while True:
            with lock:
                late = bounded and time.monotonic() - began > BUDGET
                if late or (plan := next(chosen, None)) is None:
                    return
            outcome = suffer(workshop, plan)
            with lock:
                failed.append(outcome)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for each in [pool.submit(live) for _ in range(AT_ONCE)]:
            each.result()
    violations = [
        f"seed {seed}, {outcome.plan}: {outcome.violation}\n"
        f"--- again: pytest tests/chaos/test_failures.py --chaos-failure '{outcome.plan}'"
        for outcome in failed
        if outcome.violation is not None
    ]
    assert not violations, "\n\n".join(violations)
    assert any(outcome.came for outcome in failed)
