"""Converts families of samples to prometheus_client's."""

from __future__ import annotations

from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from sidecar.core.sample import Family


def family_of(family: Family) -> Metric:
    """Return the same family for a registry of prometheus_client."""
    match family.kind:
        case "gauge":
            gauges = GaugeMetricFamily(family.name, family.text, labels=family.labels)
            for sample in family.samples:
                gauges.add_metric(sample.labels, sample.value)
            return gauges
        case "counter":
            counters = CounterMetricFamily(family.name, family.text, labels=family.labels)
            for sample in family.samples:
                counters.add_metric(sample.labels, sample.value)
            return counters
        case "info":
            infos = InfoMetricFamily(family.name, family.text, labels=())
            for sample in family.samples:
                infos.add_metric((), dict(zip(family.labels, sample.labels, strict=True)))
            return infos
        case "histogram":
            bounds = [*map(floatToGoString, family.bounds), "+Inf"]
            histograms = HistogramMetricFamily(family.name, family.text, labels=family.labels)
            for sample in family.samples:
                buckets = list(zip(bounds, accumulate(sample.counts), strict=True))
                histograms.add_metric(sample.labels, buckets, sample.value)
            return histograms
