"""Start, health, stop, and what happens when something is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import engine
from tests.support.container import wait_for
from tests.support.early_stops import pass_by
from tests.support.engine import KILL, NO_MIRROR, Box, docker

pytestmark = pytest.mark.image

Make = Callable[..., Box]
READY_AT_MOST, STOPPED_AT_MOST = 5.0, 1.0
"""Relative to the minimum of any start, a container of the image that imports devpi-server. Measured: 1.8 and 0.45; 2.2
and 0.5 beside four busy loops, because a start has more than one process."""
HEALTHCHECK_AT_MOST = 2.0
"""The CPU time of one HEALTHCHECK, relative to a Python that does nothing (1.2 measured)."""


def seconds_to_import(box: Make, name: str) -> float:
    """From `docker start` to the exit of a container that imports devpi-server and does nothing else."""
    floor = box("--tmpfs", "/tmp", "--entrypoint", "python3", name=name, flags=("-c", "import devpi_server.main"))
    floor.create()
    begin = time.monotonic()
    assert 0 == floor.start().wait_end()
    return time.monotonic() - begin


def test_it_is_ready_soon_and_stops_at_once(box: Make) -> None:
    """Relative to the minimum that this machine needs, measured just before; the best of three."""
    floors, starts, stops = [], [], []
    for number in range(3):
        floors.append(seconds_to_import(box, f"floor{number}"))
        run = box("--tmpfs", "/tmp", name=f"start{number}").create()
        begin = time.monotonic()
        run.start().wait_ready()
        starts.append(time.monotonic() - begin)
        begin = time.monotonic()
        assert 0 == run.stop()
        stops.append(time.monotonic() - begin)
    print(f"imported after {sorted(floors)} s, ready after {sorted(starts)} s, stopped after {sorted(stops)} s")
    assert READY_AT_MOST >= min(start / floor for start, floor in zip(starts, floors, strict=True))
    assert STOPPED_AT_MOST >= min(stop / floor for stop, floor in zip(stops, floors, strict=True))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_stop_at_any_instant_of_a_start(box: Make, pytestconfig: pytest.Config, number: int) -> None:
    """Exit code 0 from the moment on when the first program has become tini, before Python has really started.

    Before that, the kernel drops the signal, as for the first process of any PID namespace. The test sends it like the
    engine, but not through the engine, which takes longer than the start of Python.
    """
    seed = pytestconfig.getoption("--chaos-seed") or random.SystemRandom().randrange(2**32)
    rng = random.Random(seed)
    ends = []
    for start in range(10):
        run = box(name=f"early{start}").start()
        process = Path("/proc", str(run.state["Pid"]))
        if os.geteuid() != 0 or not process.exists():
            engine.not_here("only root, on the engine's own machine, can signal a container's process")
        wait_for(lambda process=process: (process / "comm").read_text() == "tini\n", "tini")
        pass_by(0.3 * rng.random() ** 2)
        os.kill(int(process.name), number)
        try:
            ends.append(docker("wait", run.name, patience=60).stdout.strip())
        except subprocess.TimeoutExpired:
            pytest.fail(f"it does not exit; --chaos-seed {seed}, start {start}\n{run.log}")
    assert ["0"] * len(ends) == ends, f"--chaos-seed {seed}"


def test_the_engine_finds_it_healthy(ready: Box) -> None:
    """HEALTHCHECK is readiness, checked every second during the start."""
    ready.wait_health("healthy", 30)
    assert "ready" == ready.state["Health"]["Log"][-1]["Output"].strip()


def test_the_health_check_is_cheap(ready: Box) -> None:
    """The average CPU time of the check's processes, relative to a Python that does nothing."""
    code = """
import resource, subprocess
def cpu(*command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(25):
        assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime) / 25
print(cpu("python3", "-c", ""), cpu("sidecar", "healthcheck"))
"""
    rounds = [tuple(map(float, ready.exec("python3", "-c", code).stdout.split())) for _ in range(3)]
    nothing, check = (min(each) for each in zip(*rounds, strict=True))
    print(f"HEALTHCHECK: {check * 1000:.1f} ms CPU, Python alone {nothing * 1000:.1f} ms")
    assert HEALTHCHECK_AT_MOST * nothing >= check


IMPATIENT = ("--health-start-period", "1s", "--health-interval", "1s", "--health-retries", "1")
"""The image's check, after which one failure makes a container unhealthy."""


def test_what_is_not_ready_yet_stays_starting(box: Make) -> None:
    """The check itself waits, and exits when a stop is requested: nothing that waiting may fix is `unhealthy`."""
    waiting = box(*IMPATIENT, flags=("--primary-url", "http://192.0.2.1", *NO_MIRROR), name="replica").start()
    wait_for(lambda: engine.check_age(waiting.name) > 5, "a check that waits", 90, every=1)
    health = waiting.state["Health"]
    assert ("starting", []) == (health["Status"], health["Log"])
    assert 0 == waiting.stop()


def test_what_was_ready_and_no_longer_is_becomes_unhealthy(box: Make) -> None:
    """The check no longer waits: somebody has to look at it."""
    failing = box(*IMPATIENT, "--tmpfs", "/tmp").start().wait_ready()
    failing.wait_health("healthy", 30)
    failing.exec("python3", "-c", "import os; os.rename('/var/lib/devpi/.sqlite', '/var/lib/devpi/.away')")
    failing.wait_health("unhealthy", 60)
    assert failing.state["Health"]["Log"][-1]["Output"].startswith("not ready (503): ")


def test_tini_is_the_first_process_and_leaves_no_zombies(ready: Box) -> None:
    """PID 1 reaps orphans."""
    code = """
import os, time
assert open("/proc/1/comm").read() == "tini\\n"
if os.fork() == 0:  # a child whose child outlives it
    if os.fork() == 0:
        os._exit(0)
    os._exit(0)
os.wait()
deadline = time.monotonic() + 10
def zombies():
    for each in filter(str.isdigit, os.listdir("/proc")):
        try:
            yield open(f"/proc/{each}/stat").read().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            pass
while any(zombies()) and time.monotonic() < deadline:
    time.sleep(0.05)
print(any(zombies()))
"""
    assert "False\n" == ready.exec("python3", "-c", code).stdout


def test_the_second_container_on_a_volume_ends_and_says_why(box: Make, volume: str) -> None:
    """Exit code 75; the first one is unharmed."""
    mount = ("--volume", f"{volume}:/var/lib/devpi")
    first = box(*mount, name="first").start().wait_ready()
    password = first.claim()
    second = box(*mount, name="second").start()
    assert 75 == second.wait_end()
    assert "is in use by another server" in second.log
    assert 200 == first.get("/readyz").status
    assert 200 == first.login(password)


@pytest.mark.parametrize("wanted", ["sidecar.worker", "/opt/devpi/entrypoint.py"])
def test_the_death_of_a_process_ends_the_container_with_its_code(box: Make, volume: str, wanted: str) -> None:
    """SIGKILL for devpi-server or for the sidecar: 137, nothing is partial, and the next start serves."""
    run = box("--volume", f"{volume}:/var/lib/devpi").start().wait_ready()
    password = run.claim()
    run.exec("python3", "-c", f"WANTED = {wanted!r}\n{KILL}", check=False)
    assert 137 == run.wait_end()
    if wanted == "sidecar.worker":
        assert "devpi-server" in run.log.splitlines()[-1]
    run.start().wait_ready()
    assert 200 == run.login(password)


def test_a_killed_container_starts_again(box: Make, volume: str) -> None:
    """SIGKILL for all of it, like a power cut of the machine."""
    run = box("--volume", f"{volume}:/var/lib/devpi").start().wait_ready()
    password = run.claim()
    docker("kill", run.name)
    assert 137 == run.wait_end()
    run.start().wait_ready()
    assert 200 == run.login(password)


def test_it_is_restarted_after_its_devpi_server_was_killed(box: Make, volume: str) -> None:
    """With `--restart unless-stopped` the same container is ready again by itself."""
    run = box("--restart", "unless-stopped", "--volume", f"{volume}:/var/lib/devpi").start().wait_ready()
    run.exec("python3", "-c", f"WANTED = 'sidecar.worker'\n{KILL}", check=False)
    wait_for(lambda: run.inspect()["RestartCount"] == 1, "a restart", 60, every=0.5)
    run.wait_ready()
    assert 0 == run.stop()


def test_a_restart_of_the_engine() -> None:
    """It would stop all containers of this engine."""
    engine.not_here("an engine that others use can't be restarted; the kill of a whole container is tested")
