"""The numbers of one upstream."""

from __future__ import annotations

import threading

from sidecar.devpi.from_worker import UPSTREAM_SECONDS
from sidecar.worker.upstream.causes import Cause
from sidecar.worker.upstream.counts import Counts

CAUSE = Cause("refused", "x refused the connection", "check it")


def test_answers_are_counted_by_status_or_kind() -> None:
    """Unknown statuses, which an upstream may invent, are one."""
    counts = Counts()
    counts.answer(200, 0.01, None)
    counts.answer(404, 0.3, None)
    counts.answer(299, 0.3, None)
    counts.answer(298, 0.3, None)
    counts.answer(None, 100.0, CAUSE)
    found = counts.as_json()
    assert found["answers"] == {"200": 1, "404": 1, "other": 2, "refused": 1}
    assert len(found["durations"]) == len(UPSTREAM_SECONDS) + 1
    assert sum(found["durations"]) == 5
    assert found["durations"][-1] == 1


def test_the_state_is_that_of_the_last_request() -> None:
    """`down` if the breaker is open."""
    counts = Counts()
    assert counts.as_json()["state"] == "up"
    counts.answer(None, 1.0, CAUSE)
    failing = counts.as_json()
    assert failing["state"] == "failing"
    assert failing["error"] == {"kind": "refused", "reason": "x refused the connection", "hint": "check it"}
    assert failing["last_success"] is None
    assert failing["last_failure"] is not None
    assert counts.as_json(5.0)["state"] == "down"
    counts.answer(200, 1.0, None)
    assert counts.as_json()["error"] is None


def test_requests_of_clients_and_bytes_add_up_over_threads() -> None:
    """Every one counts."""
    counts = Counts()

    def work() -> None:
        for _ in range(500):
            counts.page("hit")
            counts.file("miss")
            counts.received(3)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = counts.as_json()
    assert found["pages"] == {"hit": 2000, "miss": 0, "stale": 0, "failed": 0}
    assert found["files"]["miss"] == 2000
    assert found["bytes"] == 6000
