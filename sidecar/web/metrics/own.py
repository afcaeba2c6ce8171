"""Metrics of the container and of the sidecar, read from memory at each scrape."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import Metric

from sidecar.core.lifecycle import Phase, Snapshot
from sidecar.core.sample import Family, counters, gauge, histograms, info, states
from sidecar.web.admin_auth import Guard
from sidecar.web.context import Context
from sidecar.web.metrics.families import family_of
from sidecar.web.metrics.requests import SECONDS, Requests


class SidecarCollector:
    """A collector of prometheus_client."""

    def __init__(self, context: Context, guard: Guard, requests: Requests) -> None:
        self._context = context
        self._guard = guard
        self._requests = requests
        self._started = _started()

    def describe(self) -> list[Metric]:
        """Return nothing: no other collector has these names, so the registry need not compare them."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all families, also empty ones."""
        yield from map(family_of, self._families())

    def _families(self) -> Iterator[Family]:
        snapshot = self._context.lifecycle.snapshot
        yield info(
            "devpi_sidecar_build",
            "Versions of the sidecar and of its Python.",
            version=self._context.sidecar_version,
            python=platform.python_version(),
        )
        yield from self._life(snapshot)
        yield from self._requested()

    def _life(self, snapshot: Snapshot) -> Iterator[Family]:
        yield states(
            "devpi_sidecar_phase",
            "1 for the container's phase, 0 for the others.",
            "phase",
            Phase,
            snapshot.phase,
        )
        yield counters(
            "devpi_sidecar_phase_seconds",
            "Time spent in each phase.",
            ("phase",),
            (((phase,), seconds) for phase, seconds in self._context.lifecycle.spent().items()),
        )
        life = self._context.lifecycle
        started = life.began if self._started is None else self._started
        startup = None if life.first_ready is None else max(0.0, life.first_ready - started)
        text = "From the start of the process until devpi-server was first ready."
        yield gauge("devpi_sidecar_startup_seconds", text, startup)

    def _requested(self) -> Iterator[Family]:
        yield counters(
            "devpi_sidecar_admin_auth_failures",
            "Rejected requests to the admin routes, by reason.",
            ("reason",),
            (((reason,), number) for reason, number in auth_failures(self._guard).items()),
        )
        yield counters(
            "devpi_sidecar_http_requests",
            "Requests answered by the sidecar.",
            ("route", "method", "status"),
            (((route, method, str(status)), n) for (route, method, status), n in self._requests.answered.items()),
        )
        yield histograms(
            "devpi_sidecar_http_request_duration_seconds",
            "Duration of the sidecar's answers.",
            "route",
            SECONDS,
            ((route, found.counts, found.seconds) for route, found in self._requests.durations.items()),
        )


def auth_failures(guard: Guard) -> dict[str, int]:
    """Return how many requests the guard rejected, by reason."""
    rejections = guard.rejections
    return {
        "wrong_token": rejections.wrong - rejections.turned_away,
        "too_many": rejections.turned_away,
        **guard.without_guess,
    }


def _started() -> float | None:
    """Return when this process started, in seconds of the monotonic clock; None: unknown."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        after_name = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2]
        since_boot = int(after_name.split()[19]) / os.sysconf("SC_CLK_TCK")
        return time.monotonic() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot
    return None
