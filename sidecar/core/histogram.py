"""Durations counted into buckets, by whoever has no metrics library at hand: devpi-server's process, and the start."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """How many took how long. Not thread-safe."""

    __slots__ = ("_bounds", "counts", "seconds")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds`: the greatest duration of each bucket, in seconds, ascending; one more takes the rest."""
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """By bucket, not summed up."""
        self.seconds = 0.0
        """The sum of all."""

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.seconds += seconds
