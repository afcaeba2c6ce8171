"""SIGTERM and SIGINT while the container starts: always code 0, and nothing is left behind."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import early_stops
from tests.support.container import ENTRYPOINT, Container, alive, cleared_away, wait_for
from tests.support.early_stops import UNSHARE, WAYS, Plan, Way
from tests.support.needs import not_tested

pytestmark = pytest.mark.slow

STOPS = 60
"""Of all kinds together, unless `--early-stops` sets another number."""
AT_ONCE = 2


@pytest.fixture(scope="module")
def span(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Return the seconds of a whole start on this machine."""
    with cleared_away(Container(tmp_path_factory.mktemp("span"))) as container:
        return early_stops.until_ready(container)


@pytest.mark.parametrize("way", list(WAYS.values()), ids=list(WAYS))
def test_at_random_instants(
    pytestconfig: pytest.Config, tmp_path: Path, span: float, way: Way, container: Callable[..., Container]
) -> None:
    """One or two signals at random instants of a first start: code 0, no traceback, process, lock or partial state."""
    if way.pid_1:
        require_pid_namespace()
    if way.init and shutil.which("tini") is None:
        not_tested("tini is not installed")
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
    assert 0 == container(str(tmp_path / "0")).start().wait_ready().stop(), "the next start continues from there"


def require_pid_namespace() -> None:
    """Skip the test with the reason if this process can't make one; never in CI."""
    done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        not_tested(f"unshare --pid is not permitted here: {done.stderr.strip()}")


@pytest.mark.parametrize("number", early_stops.NUMBERS, ids=["SIGTERM", "SIGINT"])
def test_before_the_first_line(container: Callable[..., Container], number: int) -> None:
    """Blocked by the parent, as in the image, a signal that arrives before Python starts waits for the handler."""
    c = container()
    c.command = ("env", "--block-signal=TERM,INT", *ENTRYPOINT)
    send = f"import os; os.kill(os.getpid(), {int(number)}); os.execvp({c.arguments[0]!r}, {c.arguments!r})"
    blocked = ("env", "--block-signal=TERM,INT", *ENTRYPOINT[:1], "-c", send)
    done = subprocess.run(blocked, env=c.given_environ, cwd=c.home, capture_output=True, check=False, timeout=60)
    assert (0, b"", b"") == (done.returncode, done.stdout, done.stderr)
    assert not c.serverdir.exists()


@pytest.mark.parametrize("number", early_stops.NUMBERS, ids=["SIGTERM", "SIGINT"])
def test_a_tool_that_is_stopped_is_no_success(container: Callable[..., Container], number: int) -> None:
    """A backup script must not take an interrupted export for a complete one; blocked signals are handled."""
    c = container(command=("env", "--block-signal=TERM,INT", *ENTRYPOINT), flags=("sleep", "60")).start()
    wait_for(lambda: b"sleep" in Path(f"/proc/{c.pid}/cmdline").read_bytes().split(b"\0")[0], "the command")
    assert -number == c.stop(number)


def test_while_the_child_is_started(container: Callable[..., Container]) -> None:
    """A signal between fork and the return of Popen is kept until the child can be killed with this process."""
    c = container()
    site = c.home / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os, signal, subprocess, sys\n"
        "start = subprocess.Popen._execute_child\n"
        "def interrupted(self, *arguments):\n"
        "    start(self, *arguments)\n"
        "    print('child', self.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "subprocess.Popen._execute_child = interrupted\n"
    )
    c.env["PYTHONPATH"] = str(site)
    assert 0 == c.start().wait_end()
    (line,) = c.log.splitlines()
    assert not alive(int(line.removeprefix("child ")))
    assert not c.serverdir.exists()
    assert not c.runtime.exists()
