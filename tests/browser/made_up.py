"""The entrypoint with made-up data, which would otherwise take a quarter of an hour, or many machines.

Made up are the histories of the checks (not with `NO_TRENDS`), replicas in trouble beside the real ones (with
`MADE_UP_REPLICAS`), upstreams of mirrors (with `MADE_UP_UPSTREAMS`), and that Docker runs it (with `MADE_UP_DOCKER`).
"""

from __future__ import annotations

import asyncio
import os
import runpy
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from math import sin
from pathlib import Path

from sidecar.container import features
from sidecar.core import board, surroundings
from sidecar.core.check import PASS, WARN, Check, CheckStatus
from sidecar.core.history import SAMPLES, SPAN, History
from sidecar.core.surroundings import Surroundings
from sidecar.devpi.client import DevpiClient
from sidecar.devpi.protocol import UPSTREAM_SECONDS, UpstreamsSeen
from sidecar.devpi.server_status import Replica, ServerStatus
from sidecar.features.health import monitor
from sidecar.features.mirror.following import Mirror

ENTRYPOINT = Path(__file__).resolve().parents[2] / "entrypoint.py"
SLOW, BUSY = (22, 23, 24), range(38, 44)
"""How many quarter minutes ago devpi-server was slow, and had events to process."""


class MadeUpTrends(History):
    """A made-up quarter of an hour."""

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
    """Adds made-up replicas."""

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


class MadeUpMirror(Mirror):
    """Is told of made-up upstreams, with counts that grow."""

    async def run(self) -> None:
        began, seconds = time.time() - 40, 60
        while True:
            if self._runs:
                self.hear(_upstreams(began, seconds))
            await asyncio.sleep(0.5)
            seconds += 1


def _upstreams(began: float, seconds: int) -> UpstreamsSeen:
    none = {"hit": 0, "miss": 0, "stale": 0, "failed": 0}
    up = {
        "index": "root/pypi",
        "url": "https://index.example/simple/",
        "state": "up",
        "last_success": began,
        "last_failure": None,
        "next_try": None,
        "error": None,
        "list": "fresh",
        "list_at": began - 1400,
        "list_names": 650123,
        "list_error": None,
        "answers": {"200": 5 * seconds, "304": seconds},
        "durations": [5 * seconds, seconds, *[0] * (len(UPSTREAM_SECONDS) - 1)],
        "seconds": 0.3 * seconds,
        "pages": {"hit": 40 * seconds, "miss": 3 * seconds, "stale": 0, "failed": 0},
        "files": {"hit": 20 * seconds, "miss": 3 * seconds, "stale": 0, "failed": 0},
        "bytes": 900_000 * seconds,
    }
    error = {
        "kind": "trust",
        "reason": "the certificate of index.example.com is not signed by a trusted CA",
        "hint": "set `DEVPI_MIRROR_CA` to a file with that CA's certificate",
    }
    down = {
        "index": "team/internal",
        "url": "https://index.example.com/simple/",
        "state": "down",
        "last_success": None,
        "last_failure": began,
        "next_try": began + 55,
        "error": error,
        "list": "missing",
        "list_at": None,
        "list_names": None,
        "answers": {"trust": 3},
        "durations": [3, *[0] * len(UPSTREAM_SECONDS)],
        "pages": none | {"failed": 3},
        "files": none,
        "bytes": 0,
    }
    slow = {
        "index": "torch/wheels",
        "url": "https://download.example.org/whl/",
        "state": "failing",
        "last_success": began - 4000,
        "last_failure": began,
        "error": error | {"kind": "timeout", "reason": "no answer within 30 s", "hint": "wait, or check the network"},
        "list": "stale",
        "list_at": began - 90_000,
        "list_names": 61,
        "list_error": error | {"kind": "status", "reason": "upstream answered 502", "hint": "wait"},
        "pages": none | {"hit": 12, "miss": 4, "stale": 9},
        "files": none | {"hit": 2, "miss": 2},
    }
    return UpstreamsSeen(3, [up, up | down, up | slow])


if __name__ == "__main__":
    if os.environ.get("MADE_UP_DOCKER"):
        surroundings.look = lambda *, in_kubernetes: Surroundings("devpi", "docker", "3f2a1b9c8d7e")
    if not os.environ.get("NO_TRENDS"):
        board.History = MadeUpTrends  # type: ignore[misc]
    if os.environ.get("MADE_UP_UPSTREAMS"):
        features.Mirror = MadeUpMirror  # type: ignore[misc]
    if os.environ.get("MADE_UP_REPLICAS"):
        monitor.DevpiClient = MadeUpClient  # type: ignore[misc]
    runpy.run_path(str(ENTRYPOINT), run_name="__main__")
