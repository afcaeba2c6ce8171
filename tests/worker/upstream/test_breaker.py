"""When an upstream is not asked, and when it is asked again."""

from __future__ import annotations

import pytest

from sidecar.worker.upstream.breaker import Breaker


class Clock:
    """Both clocks, set by the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock=clock, wall=clock)
    for _ in range(3):
        breaker.failed()
    return breaker


def test_it_opens_after_three_consecutive_failures(clock: Clock) -> None:
    """A success in between starts from zero."""
    changes: list[bool] = []
    breaker = Breaker(changes.append, clock=clock, wall=clock)
    breaker.failed()
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    breaker.failed()
    assert breaker.allows()
    assert breaker.next_try is None
    breaker.failed()
    assert not breaker.allows()
    assert breaker.next_try == 1000.0
    assert changes == [True]


def test_one_probe_at_a_time_first_at_once_then_at_growing_intervals(clock: Clock) -> None:
    """So an upstream that comes back is used again within 5 s, plus the probe."""
    breaker = opened(clock)
    for wait in (1.0, 1.0, 1.0, 2.0, 4.0, 5.0):
        assert breaker.begin_probe()
        assert not breaker.begin_probe()
        breaker.end_probe(success=False)
        assert breaker.next_try == clock.now + wait
        clock.now += wait - 0.01
        assert not breaker.begin_probe()
        clock.now += 0.02
    assert breaker.begin_probe()
    breaker.end_probe(success=True)
    assert breaker.allows()


def test_after_a_probe_one_failure_without_answer_opens_it_and_waits_go_on(clock: Clock) -> None:
    """An upstream that answers HEAD but hangs for the rest costs one request each time."""
    breaker = opened(clock)
    for wait in (1.0, 1.0, 1.0, 2.0, 4.0, 5.0):
        assert breaker.begin_probe()
        breaker.end_probe(success=True)
        breaker.failed()
        assert breaker.next_try == clock.now + wait
        clock.now += wait
    assert breaker.begin_probe()
    breaker.end_probe(success=True)
    breaker.succeeded()
    breaker.failed()
    assert breaker.allows()


def test_one_page_that_always_fails_does_not_keep_the_others_out(clock: Clock) -> None:
    """The upstream answers, so it is probed at once, each time, and three failures are needed again."""
    breaker = Breaker(clock=clock, wall=clock)
    for _ in range(5):
        for _ in range(3):
            assert breaker.allows()
            breaker.failed(answered=True)
        assert not breaker.allows()
        assert breaker.wait() == 0.0
        assert breaker.begin_probe()
        breaker.end_probe(success=True)


def test_an_upstream_that_asks_to_wait_is_not_asked_so_long(clock: Clock) -> None:
    """At the first failure; at most a minute."""
    breaker = Breaker(clock=clock, wall=clock)
    breaker.failed(answered=True, retry_after=7)
    assert breaker.next_try == 1007.0
    clock.now += 7
    assert breaker.begin_probe()
    breaker.end_probe(success=False, retry_after=86_400)
    assert breaker.next_try == clock.now + 60.0


def test_what_ends_while_it_is_open_changes_nothing(clock: Clock) -> None:
    """Requests that were sent before; the probe decides."""
    breaker = opened(clock)
    breaker.succeeded()
    clock.now += 1
    breaker.failed(retry_after=50)
    assert not breaker.allows()
    assert breaker.next_try == 1000.0
