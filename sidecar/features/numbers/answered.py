"""The requests that devpi-server has answered, of all its processes in a container's life."""

from __future__ import annotations

from typing import Any

from sidecar.devpi.protocol import Requests

_SUMMED = ("seconds", "bytes", "received")


class Answered:
    """Adds up the counts of successive processes. Lives on the event loop."""

    def __init__(self) -> None:
        self._before: Requests | None = None
        """Of the processes that have exited."""
        self._total: Requests | None = None

    def hear(self, counted: Requests) -> None:
        """Take the present process's counts so far."""
        self._total = counted if self._before is None else _sum(self._before, counted)

    def process_ended(self) -> None:
        """Keep its counts: the next process starts at 0."""
        self._before = self._total and Requests(
            {name: route | {"in_flight": 0} for name, route in self._total.routes.items()}
        )
        self._total = self._before

    def total(self) -> Requests | None:
        """Return the counts of all processes; None: there was no request yet."""
        return self._total


def _sum(before: Requests, counted: Requests) -> Requests:
    return Requests({name: _add(before.routes[name], route) for name, route in counted.routes.items()})


def _add(before: dict[str, Any], route: dict[str, Any]) -> dict[str, Any]:
    statuses = {
        code: before["statuses"].get(code, 0) + route["statuses"].get(code, 0)
        for code in (*before["statuses"], *route["statuses"])
    }
    durations = [one + other for one, other in zip(before["durations"], route["durations"], strict=True)]
    summed = {name: before[name] + route[name] for name in _SUMMED}
    return {"in_flight": route["in_flight"], "statuses": statuses, "durations": durations} | summed
