"""`sidecar.worker.patches.waits`: half of the threads stay free if upstreams are slow; short outages are waited for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.worker.patches import waits
from sidecar.worker.patches.waits import Crowd, Outage
from sidecar.worker.upstream.causes import Cause
from sidecar.worker.upstream.upstream_client import FailedResponse, UpstreamClient

PATIENCE = 60.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that only sleeping, and the test, advance."""
    clock = SimpleNamespace(now=1000.0)

    def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(waits.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(waits.time, "sleep", sleep)
    return clock


class Threads:
    """Threads that wait for upstreams in a crowd until they are let go."""

    def __init__(self, crowd: Crowd, stack: ExitStack) -> None:
        self._crowd = crowd
        self._stack = stack

    def one_more(self) -> bool:
        """Start a thread, and return whether it had a place."""
        go_on, begun, has_place = threading.Event(), threading.Event(), []

        def wait() -> None:
            with self._crowd.waiting() as place:
                has_place.append(place)
                begun.set()
                go_on.wait(PATIENCE)

        thread = threading.Thread(target=wait)
        thread.start()
        self._stack.callback(thread.join, PATIENCE)
        self._stack.callback(go_on.set)
        assert begun.wait(PATIENCE)
        return bool(has_place[0])


@pytest.fixture
def crowd() -> Crowd:
    """With places for two."""
    crowd = Crowd()
    crowd.places = 2
    return crowd


@pytest.fixture
def threads(crowd: Crowd) -> Iterator[Threads]:
    """Threads in the crowd, which end with the test."""
    with ExitStack() as stack:
        yield Threads(crowd, stack)


def test_a_crowd_that_moves_has_no_limit(crowd: Crowd, threads: Threads, clock: SimpleNamespace) -> None:
    """Upstreams that answer at once may be asked by all threads, as by uv, which requests fifty pages at once."""
    assert all(threads.one_more() for _ in range(5))


def test_a_crowd_that_is_stuck_is_full(crowd: Crowd, threads: Threads, clock: SimpleNamespace) -> None:
    """Who waits may ask again, a newcomer may not."""
    assert threads.one_more()
    with crowd.waiting() as first:
        clock.now += 2.0
        with crowd.waiting() as again:
            assert (first, again) == (True, True)
        assert not threads.one_more()
    assert threads.one_more()


def outage(failing_since: float | None, seconds: float = 5.0) -> Outage:
    """Return the wait of one request."""
    client: Any = object.__new__(UpstreamClient)
    client.counts = SimpleNamespace(failing_since=failing_since)
    return Outage(client, seconds)


def failure(kind: Any, retry_after: int | None = None) -> FailedResponse:
    """Return an answer that is none."""
    return FailedResponse("http://127.0.0.1/", Cause(kind, "it failed", "wait"), retry_after)


def test_a_young_outage_is_waited_for(clock: SimpleNamespace) -> None:
    """At most as long as the request may take."""
    waiting = outage(clock.now)
    began = clock.now
    while waiting.may_end(failure("refused")):
        assert clock.now < began + 10
    assert 4.0 < clock.now - began <= 5.0


@pytest.mark.parametrize(
    ("since", "answer"),
    [
        (0.0, failure("refused")),
        (1000.0, failure("trust")),
        (1000.0, failure("limited", 9)),
        (1000.0, None),
        (None, failure("refused")),
    ],
    ids=["old", "lasting", "asks for time", "too late", "over"],
)
def test_nothing_else_is_waited_for(clock: SimpleNamespace, since: float | None, answer: FailedResponse | None) -> None:
    """The answer is given at once."""
    assert not outage(since).may_end(answer)
    assert clock.now == 1000.0
