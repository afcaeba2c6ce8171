"""For all tests."""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings

# milliseconds say nothing on a busy machine, and hangs are pytest's matter; with CI set hypothesis would derandomize
settings.register_profile("busy", deadline=None, derandomize=False)
settings.load_profile("busy")


def pytest_configure() -> None:
    """What is started by the tests can be interrupted, also if they run in the background, where SIGINT is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """What tests/chaos is told; here, for pytest reads options before it looks into that folder."""
    group = parser.getgroup("chaos")
    group.addoption("--kills", type=int, help="how many times tests/chaos kills a container at least (64)")
    group.addoption("--random-only", action="store_true", help="all kills of tests/chaos come at random instants")
    group.addoption("--chaos-seed", type=int, help="the seed of tests/chaos, as an earlier run printed it")
    group.addoption("--chaos-plan", help="kill exactly there, once; as a violation printed it")
    group.addoption("--early-stops", type=int, help="how many starts tests/integration/test_early_stops.py stops (100)")
    group.addoption("--failures", type=int, help="how many steps tests/chaos has fail; 0: of each kind")
    group.addoption("--chaos-failure", help="have exactly that step fail; as a violation printed it")
