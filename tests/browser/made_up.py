"""The entrypoint with made-up data, for what would take 15 minutes or many machines to show on the page.

Histories of the checks (unless `NO_TRENDS`); with `MADE_UP_REPLICAS`, failing replicas beside the real ones; with
`MADE_UP_DOCKER`, Docker as its runtime.
"""

from __future__ import annotations

import os
import runpy
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from math import sin
from pathlib import Path

from sidecar.core import board, surroundings
from sidecar.core.check import PASS, WARN, Check, CheckStatus
from sidecar.core.history import SAMPLES, SPAN, History
from sidecar.core.surroundings import Surroundings
from sidecar.devpi.client import DevpiClient
from sidecar.devpi.server_status import Replica, ServerStatus
from sidecar.features.health import monitor

ENTRYPOINT = Path(__file__).resolve().parents[2] / "entrypoint.py"
SLOW, BUSY = (22, 23, 24), range(38, 44)
"""Samples (15 s each, counted back) with a slow devpi-server, and with events to process."""


class MadeUpTrends(History):
    """A made-up history of the 15 minutes before the start."""

    def __init__(self) -> None:
        super().__init__()
        at, free = time.monotonic(), float(shutil.disk_usage("/").free)
        for ago in range(SAMPLES - 1, 0, -1):
            self.see(at - ago * SPAN, _checks(ago, free))


def _checks(ago: int, free: float) -> Iterator[Check]:
    def check(name: str, status: CheckStatus = PASS, value: float | None = None, unit: str | None = None) -> Check:
        return Check(name, status, datetime.now(UTC), True, value=value, unit=unit)

    yield from map(check, ("process", "write", "lock", "root-password", "replication"))
    slow = ago in SLOW
    yield check("http", WARN if slow else PASS, 2.3 if slow else 0.003 + 0.001 * sin(ago) * sin(3 * ago), "seconds")
    yield check("disk", PASS, free * (1 + ago / 2000), "bytes")
    yield check("events", PASS, max(0, ago - BUSY.start) if ago in BUSY else 0, "serials")


class MadeUpClient(DevpiClient):
    """Adds made-up replicas to the status."""

    async def status(self) -> ServerStatus:
        said = await super().status()
        serial, now = said.serial or 0, time.time()
        more = (
            Replica("10.0.3.7", serial - 2, now - 1, None),
            Replica("10.0.3.8", serial, now - 97, None),
            Replica("10.0.4.2", 0, now - 1870, None),
        )
        there = said.polling_replicas or 0
        return replace(said, replicas=(*said.replicas, *more), polling_replicas=there + len(more))


if __name__ == "__main__":
    if os.environ.get("MADE_UP_DOCKER"):
        surroundings.look = lambda *, in_kubernetes: Surroundings("devpi", "docker", "3f2a1b9c8d7e")
    if not os.environ.get("NO_TRENDS"):
        board.History = MadeUpTrends  # type: ignore[misc]
    if os.environ.get("MADE_UP_REPLICAS"):
        monitor.DevpiClient = MadeUpClient  # type: ignore[misc]
    runpy.run_path(str(ENTRYPOINT), run_name="__main__")
