"""`sidecar.core.history`: the last quarter of an hour, no more."""

from __future__ import annotations

from sidecar.core.check import FAIL, PASS, WARN, Check, CheckStatus
from sidecar.core.history import SAMPLES, SPAN, History, Reading
from sidecar.core.lifecycle import now


def check(status: CheckStatus = PASS, value: float | None = None, name: str = "http") -> Check:
    return Check(name, status, now(), True, None, value)


def test_nothing_was_seen() -> None:
    """There are no readings, rather than invented ones."""
    assert () == History().of("http").samples


def test_a_sample_is_the_worst_of_its_time() -> None:
    """A failure of a second shows, and so does the greatest value; later values undo neither."""
    trends = History()
    for at, seen in enumerate([check(PASS, 1.0), check(FAIL), check(WARN, 5.0), check(PASS, 2.0)]):
        trends.see(at, [seen])
    samples = trends.of("http").samples
    assert SAMPLES == len(samples)
    assert Reading(FAIL, 5.0) == samples[-1]
    assert {None} == set(samples[:-1])


def test_samples_age_out() -> None:
    """After a quarter of an hour no failure is left."""
    trends = History()
    trends.see(0, [check(FAIL)])
    for number in range(1, SAMPLES):
        trends.see(number * SPAN, [check(PASS, number)])
    assert FAIL is trends.of("http").samples[0].status  # type: ignore[union-attr]
    trends.see(SAMPLES * SPAN, [check()])
    assert [PASS] * SAMPLES == [sample.status for sample in trends.of("http").samples if sample]


def test_a_gap_is_a_gap() -> None:
    """A minute or an hour without probes shows as such."""
    trends = History()
    trends.see(0, [check()])
    trends.see(5 * SPAN, [check()])
    seen = [sample is not None for sample in trends.of("http").samples]
    assert [True, False, False, False, False, True] == seen[-6:]
    trends.see(1000 * SPAN, [check()])
    assert 1 == sum(sample is not None for sample in trends.of("http").samples)
    assert {None} == set(trends.of("no such").samples)
