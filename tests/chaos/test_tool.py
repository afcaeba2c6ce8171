"""`entrypoint.py devpi-import` is killed at a step: the next start refuses a partial state, serves a complete one."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.chaos import steps
from tests.chaos.invariants import imported, no_processes
from tests.chaos.plans import kills_of
from tests.chaos.steps import Kill
from tests.chaos.workshop import Workshop
from tests.support.container import Container, call_devpi, cleared_away, wait_for

pytestmark = pytest.mark.chaos

PASSWORD = "root's own, of the test"
KINDS = 4
"""Kinds of steps at which the tool is killed by default."""


def run(workshop: Workshop, container: Container) -> int:
    """Run the tool, and return its exit code."""
    given = ["--serverdir", str(container.serverdir), "--no-root-pypi", "--no-events", "--root-passwd", PASSWORD]
    return container.run("devpi-import", *given, str(workshop.export)).returncode


@pytest.fixture(scope="module")
def kills(workshop: Workshop, seed: int, pytestconfig: pytest.Config) -> Iterator[Kill]:
    """Yield a kill for each kind of step of the tool, in random order except the first."""
    with cleared_away(Container(workshop.home / "tool")) as container:
        steps.watch(container, workshop.library, trace=container.home / "trace")
        assert run(workshop, container) == 0
    chance = random.Random(seed)
    kinds: dict[str, list[Kill]] = {}
    for kill in kills_of(container.home / "trace"):
        kinds.setdefault(kill.name, []).append(kill)
    order = [chance.choice(kinds[name]) for name in sorted(kinds)]
    chance.shuffle(order)
    order.sort(key=lambda kill: kill.name != "write serverdir/.sqlite")  # one that must be refused comes first
    return iter(order[: pytestconfig.getoption("--kills") or KINDS])


def test_a_killed_import_by_hand(workshop: Workshop, kills: Iterator[Kill], seed: int) -> None:
    """Never a partial import, never an empty password; after a refusal a new import works."""
    found: Counter[str] = Counter()
    for number, kill in enumerate(kills):
        where = f"seed {seed}, {kill}"
        with cleared_away(Container(workshop.home / f"tool-{number}")) as container:
            steps.watch(container, workshop.library, kill=kill)
            assert run(workshop, container) == -9, where
            steps.let_alone(container)
            container.start()
            wait_for(lambda c=container: not c.running or c.get("/readyz").status == 200, f"an exit after {where}")
            what = look(container, where)
            found[what] += 1
            if what == "refused":
                shutil.rmtree(container.serverdir)
                container.start().wait_ready()
                assert container.login("root", container.claim()) == 200, where
            assert container.stop() == 0, where
            no_processes(container)
        shutil.rmtree(container.home)
    assert found["refused"], found


def look(container: Container, where: str) -> str:
    """Return what the start found: `refused`, `whole` or `empty`."""
    if not container.running:
        assert container.wait_end() == 65, where
        assert "a devpi-import that was run on it has not finished" in container.log, where
        return "refused"
    assert container.login("root", "") == 401, where
    if "mass" in call_devpi(f"{container.devpi}/").json["result"]:
        imported(container)
        assert container.login("root", PASSWORD) == 200, where
        return "whole"
    assert container.login("root", container.claim()) == 200, where
    return "empty"
