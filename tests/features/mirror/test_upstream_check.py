"""`sidecar.features.mirror.upstream_check`: when the check `mirror` warns, and what it says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sidecar.core.check import PASS, WARN
from sidecar.features.mirror.upstream_check import judge_upstreams
from tests.support.upstreams import AT, seen_failing, seen_up, upstreams_of

NOW = datetime.fromtimestamp(AT, UTC) + timedelta(hours=1)


def test_no_use_is_no_failure() -> None:
    """An upstream that nobody has asked yet passes, with the reason."""
    verdict = judge_upstreams((), NOW)
    assert (PASS, "no upstream has been used yet", None) == (verdict.status, verdict.reason, verdict.hint)


def test_upstreams_that_answer_pass() -> None:
    """Also without a list of projects."""
    verdict = judge_upstreams(upstreams_of(seen_up("root/pypi"), seen_up("a/b", list="off", list_at=None)), NOW)
    assert (PASS, None) == (verdict.status, verdict.reason)


@pytest.mark.parametrize("state", ["failing", "down"])
def test_a_failed_one_is_named(state: str) -> None:
    """With the reason, the last success, and the hint of the error."""
    failing = seen_failing("x/y", state=state)
    verdict = judge_upstreams(upstreams_of(seen_up("root/pypi"), failing), NOW)
    assert verdict.status is WARN
    assert verdict.reason == "x/y: the certificate is not signed by a trusted CA (no success since the start)"
    assert verdict.hint == "set DEVPI_MIRROR_CA to the file /etc/ca.pem"
    (again,) = upstreams_of(failing | {"last_success": AT})
    assert "(last success 2026-11-22 10:20 UTC)" in (judge_upstreams((again,), NOW).reason or "")


def test_a_failure_without_a_reason_is_one() -> None:
    """It still warns."""
    verdict = judge_upstreams(upstreams_of(seen_failing("x/y", error=None)), NOW)
    assert (WARN, "x/y: no reason is known (no success since the start)") == (verdict.status, verdict.reason)


def test_many_failures_are_counted() -> None:
    """The first three are named."""
    verdict = judge_upstreams(upstreams_of(*(seen_failing(f"u/m{number}") for number in range(5))), NOW)
    assert verdict.reason is not None
    assert verdict.reason.endswith("u/m2: the certificate is not signed by a trusted CA (no success since the start)"
                                   "; and 2 more")  # fmt: skip


def test_a_list_that_cannot_be_refreshed_warns() -> None:
    """At once, because new projects are missing from it; after the upstreams that don't answer."""
    error = {"kind": "too-large", "reason": "more than 256 MiB", "hint": "raise DEVPI_MIRROR_MAX_LIST_SIZE"}
    seen = upstreams_of(seen_up("a/b", list="stale", list_error=error), seen_failing("x/y"))
    verdict = judge_upstreams(seen[:1], NOW)
    assert (WARN, "a/b: its list of projects can't be refreshed: more than 256 MiB", error["hint"]) == (
        verdict.status,
        verdict.reason,
        verdict.hint,
    )
    assert (judge_upstreams(seen, NOW).reason or "").startswith("x/y: ")


@pytest.mark.parametrize(
    ("hours", "status"), [(23, PASS), (25, WARN), (-25, WARN)], ids=["23 h", "25 h", "in the future"]
)
def test_a_stale_list_warns_after_a_day(hours: int, status: str) -> None:
    """A time in the future is of a clock that was set back, so its age is not known."""
    at = NOW - timedelta(hours=hours)
    stale = upstreams_of(seen_up("a/b", list="stale", list_at=at.timestamp()))
    assert judge_upstreams(stale, NOW).status == status
    fresh = upstreams_of(seen_up("a/b", list_at=at.timestamp()))
    assert judge_upstreams(fresh, NOW).status is PASS
