"""Short ways to make families of samples. With the collectors, the only ones that import prometheus_client."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.utils import floatToGoString

Labelled = Iterable[tuple[Sequence[str], float]]
"""The values of the labels, and the sample's."""


def gauge(name: str, text: str, value: float | None) -> GaugeMetricFamily:
    """One number; None: not known, and so absent."""
    family = GaugeMetricFamily(name, text, labels=())
    if value is not None:
        family.add_metric((), value)
    return family


def gauges(name: str, text: str, labels: Sequence[str], samples: Labelled) -> GaugeMetricFamily:
    """Several numbers."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def states(name: str, text: str, label: str, known: Iterable[str], now: str | None) -> GaugeMetricFamily:
    """1 for the state it is in, 0 for all others; nothing where `now` is None."""
    found = () if now is None else known
    return gauges(name, text, (label,), (((state,), float(state == now)) for state in found))


def counters(name: str, text: str, labels: Sequence[str], samples: Labelled) -> CounterMetricFamily:
    """Several numbers that only grow; the exposition appends `_total` to `name`."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def info(name: str, text: str, **labels: str) -> InfoMetricFamily:
    """A sample of 1 that carries texts; the exposition appends `_info` to `name`."""
    family = InfoMetricFamily(name, text, labels=())
    if labels:
        family.add_metric((), labels)
    return family


def histograms(
    name: str, text: str, label: str, bounds: Sequence[float], samples: Iterable[tuple[str, Sequence[int], float]]
) -> HistogramMetricFamily:
    """By a label's value: the numbers in each bucket (the last without bound), and the sum."""
    bounded = [*map(floatToGoString, bounds), "+Inf"]
    family = HistogramMetricFamily(name, text, labels=(label,))
    for value, counts, total in samples:
        buckets = list(zip(bounded, accumulate(counts), strict=True))
        family.add_metric((value,), buckets, total)
    return family
