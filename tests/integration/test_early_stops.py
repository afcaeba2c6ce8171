"""SIGTERM and SIGINT while the container starts: always code 0, and nothing is left behind."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chaos.ci import not_tested
from tests.integration import early_stops
from tests.integration.container import Container
from tests.integration.early_stops import UNSHARE, WAYS, Plan, Way

STOPS = 100
"""Of all ways together, unless `--early-stops` says another number."""
AT_ONCE = 2


@pytest.fixture(scope="module")
def span(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds of a whole start here and now."""
    with early_stops.cleared_away(Container(tmp_path_factory.mktemp("span"))) as container:
        return early_stops.until_ready(container)


@pytest.mark.parametrize("way", list(WAYS.values()), ids=list(WAYS))
def test_at_random_instants(
    pytestconfig: pytest.Config, tmp_path: Path, span: float, way: Way, container: Callable[..., Container]
) -> None:
    """One signal or two at a random instant of a first start: code 0, no traceback, no process, no lock, no half."""
    if way.pid_1:
        require_pid_namespace()
    seed = pytestconfig.getoption("--chaos-seed")
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    rng = random.Random(f"{seed} {way}")
    plans = [Plan.at_random(rng, span) for _ in range((pytestconfig.getoption("--early-stops") or STOPS) // len(WAYS))]

    def live(numbered: tuple[int, Plan]) -> str | None:
        number, plan = numbered
        home = tmp_path / f"{number}"
        wrong = early_stops.stop_once(home, way, plan)
        if wrong is None and number:
            shutil.rmtree(home)
        return None if wrong is None else f"--- after {plan}: {wrong}"

    with ThreadPoolExecutor(AT_ONCE) as pool:
        wrong = [found for found in pool.map(live, enumerate(plans)) if found is not None]
    assert not wrong, f"{len(wrong)} of {len(plans)}, --chaos-seed {seed}:\n" + "\n".join(wrong)
    assert 0 == container(str(tmp_path / "0")).start().wait_ready().stop(), "the next start goes on from there"


def require_pid_namespace() -> None:
    """Skip the test, saying why, where this may not make one; never in CI."""
    done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        not_tested(f"unshare --pid is not permitted here: {done.stderr.strip()}")
