"""Configuration of all tests."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# durations mean nothing on a busy machine, and pytest handles hangs; with CI set hypothesis would derandomize
settings.register_profile("busy", deadline=None, derandomize=False, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


class Skips:
    """Writes the name of each skipped test into a file, for a machine that has what this one lacks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._path.touch()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """With pytest-xdist, all reports pass through its main process, too."""
        if report.skipped and not hasattr(report, "wasxfail"):
            with self._path.open("a") as file:
                file.write(f"{report.nodeid}\n")


def pytest_configure(config: pytest.Config) -> None:
    """Let SIGINT interrupt child processes, also in the background, where it is ignored."""
    skips: Path | None = config.getoption("--skips")
    if skips is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Skips(skips), "skips")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the whole suite, and of tests/chaos: pytest reads options before it opens that folder."""
    parser.addoption("--skips", type=Path, help="append the name of each skipped test to this file (.ci/run)")
    group = parser.getgroup("chaos")
    group.addoption("--kills", type=int, help="how many times tests/chaos kills a container at least (40)")
    group.addoption("--random-only", action="store_true", help="all kills of tests/chaos come at random instants")
    group.addoption("--chaos-seed", type=int, help="the seed of tests/chaos, as an earlier run printed it")
    group.addoption("--chaos-plan", help="kill exactly there, once; as a violation printed it")
    group.addoption("--early-stops", type=int, help="how many starts tests/integration/test_early_stops.py stops (60)")
    group.addoption("--failures", type=int, help="how many steps tests/chaos has fail; 0: of each kind")
    group.addoption("--chaos-failure", help="have exactly that step fail; as a violation printed it")


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """Undo a test's changes of this process's log: handlers, level, and filters, including pytest's own."""
    root = logging.getLogger()
    level, handlers, filters = root.level, root.handlers[:], [each.filters[:] for each in root.handlers]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    for handler, before in zip(handlers, filters, strict=True):
        handler.filters[:] = before
