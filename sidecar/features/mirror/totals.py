"""The numbers of each upstream, of all of devpi-server's processes in a container's life."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sidecar.features.mirror.upstream_state import MANY, Counts, Upstream


class Totals:
    """Adds up the counts of successive processes. Lives on the event loop."""

    def __init__(self) -> None:
        self._before: dict[str, Counts] = {}
        """Of the processes that have exited, by index."""
        self._total: dict[str, Counts] = {}

    def take(self, upstreams: Sequence[Upstream]) -> tuple[Upstream, ...]:
        """Take the present process's counts, and return the upstreams with those of all processes."""
        summed = tuple(replace(each, counts=self._before.get(each.index, Counts()) + each.counts) for each in upstreams)
        present = {each.index: each.counts for each in summed}
        self._total = dict(list((present | {k: v for k, v in self._before.items() if k not in present}).items())[:MANY])
        return summed

    def process_ended(self) -> None:
        """Keep the counts: the next process starts at 0."""
        self._before = self._total

    def total(self) -> Mapping[str, Counts]:
        """Return the counts of all processes by index; at most `MANY`."""
        return self._total
