"""Metrics of features: families of samples, which `web.metrics` formats for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["gauge", "counter", "info", "histogram"]


@dataclass(frozen=True, slots=True)
class Sample:
    """A number or a histogram."""

    labels: tuple[str, ...]
    """The values of the family's labels, in their order."""
    value: float
    """Of a histogram: the sum of the observations."""
    counts: tuple[int, ...] = ()
    """Of a histogram: the observations in each bucket, the last without bound."""


@dataclass(frozen=True, slots=True)
class Family:
    """All samples of one name. It may be empty."""

    kind: Kind
    name: str
    """Without the suffix `_total` or `_info`, which the exposition appends."""
    text: str
    """Its meaning, in a sentence."""
    labels: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = ()
    bounds: tuple[float, ...] = ()
    """Of a histogram: the upper bounds of its buckets except the last."""


Labelled = Iterable[tuple[Sequence[str], float]]
"""The values of the labels, and the sample's."""


def gauge(name: str, text: str, value: float | None) -> Family:
    """One number; None: unknown, so the family is empty."""
    return gauges(name, text, (), () if value is None else (((), value),))


def gauges(name: str, text: str, labels: Sequence[str], samples: Labelled) -> Family:
    """Several numbers."""
    return Family("gauge", name, text, tuple(labels), _samples(samples))


def states(name: str, text: str, label: str, known: Iterable[str], now: str | None) -> Family:
    """1 for the state `now`, 0 for all others; empty if `now` is None."""
    found = () if now is None else known
    return gauges(name, text, (label,), (((state,), float(state == now)) for state in found))


def counters(name: str, text: str, labels: Sequence[str], samples: Labelled) -> Family:
    """Several numbers that only grow."""
    return Family("counter", name, text, tuple(labels), _samples(samples))


def info(name: str, text: str, **labels: str) -> Family:
    """A sample of 1 that carries texts."""
    samples = (Sample(tuple(labels.values()), 1.0),) if labels else ()
    return Family("info", name, text, tuple(labels), samples)


def histograms(
    name: str, text: str, label: str, bounds: Sequence[float], samples: Iterable[tuple[str, Sequence[int], float]]
) -> Family:
    """Histograms; `samples` are the label's value, the number in each bucket (the last without bound), and the sum."""
    found = tuple(Sample((value,), total, tuple(counts)) for value, counts, total in samples)
    return Family("histogram", name, text, (label,), found, tuple(bounds))


def _samples(samples: Labelled) -> tuple[Sample, ...]:
    return tuple(Sample(tuple(labels), value) for labels, value in samples)
