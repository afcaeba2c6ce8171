"""`sidecar.features.mirror.upstream_state`: what is taken from a report; its names and texts may be hostile."""

from __future__ import annotations

import json

import pytest

from sidecar.devpi.protocol import UpstreamsSeen
from sidecar.features.mirror.upstream_state import MANY, as_json, parse
from tests.support.upstreams import seen_failing, seen_up, upstreams_of


def test_credentials_paths_and_queries_are_left_out() -> None:
    """Some services have a token in the path of their URLs."""
    told = json.dumps([as_json(each) for each in upstreams_of(seen_up("a/b"), seen_failing("x/y"))])
    assert "s3cret" not in told
    assert "t0ken" not in told
    assert "https://index.example.com:8443" in told


@pytest.mark.parametrize("url", ["", "x", "http://[", "https://", "file:///etc/passwd"])
def test_a_url_without_a_host_has_no_origin(url: str) -> None:
    """It is not shown at all."""
    assert [""] == [each.origin for each in upstreams_of(seen_up("a/b", url=url))]


def test_texts_are_cut_and_printable() -> None:
    """Control characters, and megabytes."""
    error = {"kind": "status", "reason": "\x1b]0;owned\x07\n" + "x" * 10_000, "hint": "y" * 10_000}
    (seen,) = upstreams_of(seen_failing("a/\u202e" + "n" * 10_000, error=error))
    assert seen.error is not None
    texts = (seen.index, seen.error.reason, seen.error.hint or "")
    assert [True] * 3 == [text.isprintable() and 0 < len(text) < 600 for text in texts]


def test_answers_have_known_names() -> None:
    """Each is a label of a metric: an upstream that answers with any status does not make more of them."""
    answers = {str(status): 1 for status in range(1000)} | {"trust": 2, "x\n": 3, "429": 7}
    (seen,) = upstreams_of(seen_up("a/b", answers=answers))
    counted = dict(seen.counts.answers)
    assert (7, 2, sum(answers.values())) == (counted["429"], counted["trust"], sum(counted.values()))
    assert len(counted) < 80
    assert counted["other"] > 900


def test_only_the_first_are_kept() -> None:
    """More would be too many series."""
    seen = [seen_up(f"u/m{number:03}") for number in range(100)]
    assert [f"u/m{number:03}" for number in range(MANY)] == [each.index for each in parse(UpstreamsSeen(100, seen))]


@pytest.mark.parametrize("at", [1e300, -1e300, float("inf"), float("nan")])
def test_a_time_that_no_calendar_has_is_unknown(at: float) -> None:
    """Instead of an error."""
    (seen,) = upstreams_of(seen_up("a/b", last_success=at, list_at=at))
    assert (None, None) == (seen.last_success, seen.list.refreshed)


def test_counts_add_up() -> None:
    """Of the same upstream in two processes."""
    one, two = upstreams_of(seen_up("a/b"), seen_up("a/b", answers={"200": 1, "timeout": 2}, bytes=1, seconds=0.5))
    both = one.counts + two.counts
    assert both.answers == (("200", 62), ("304", 4), ("timeout", 2))
    assert (both.received, both.seconds, both.pages[0], both.durations[:2]) == (48123457, 3.0, 1624, (120, 10))
