"""What the sidecar knows of the container and of itself, as metrics; read from memory at each scrape."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client.core import Metric

from sidecar.core.lifecycle import ImportState, ImportStatus, Phase, RootPassword, RootPasswordStatus, Snapshot
from sidecar.features.health.monitor import Check, CheckStatus
from sidecar.web.admin_auth import Guard
from sidecar.web.context import Context
from sidecar.web.metrics.families import counters, gauge, gauges, histograms, info, states
from sidecar.web.metrics.requests import SECONDS, Requests

UNITS = ("seconds", "bytes", "serials", "replicas")
"""Of the checks' values; each has a metric of its own."""
_LOADED = ("users", "indexes", "projects", "files")


class SidecarCollector:
    """For a registry of prometheus_client."""

    def __init__(self, context: Context, guard: Guard, requests: Requests) -> None:
        self._context = context
        self._guard = guard
        self._requests = requests
        self._started = _started()

    def describe(self) -> list[Metric]:
        """Nothing that the registry need compare: this collector is the only one of these names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All families, the empty ones too."""
        snapshot = self._context.lifecycle.snapshot
        yield info(
            "devpi_sidecar_build",
            "The sidecar's version, and its Python's.",
            version=self._context.sidecar_version,
            python=platform.python_version(),
        )
        yield from self._life(snapshot)
        yield from self._health()
        yield from _import(snapshot.imported)
        yield from self._admission(snapshot.root_password)

    def _life(self, snapshot: Snapshot) -> Iterator[Metric]:
        yield states("devpi_sidecar_phase", "1 for the phase that the container is in.", "phase", Phase, snapshot.phase)
        yield counters(
            "devpi_sidecar_phase_seconds",
            "Time spent in each phase.",
            ("phase",),
            (((phase,), seconds) for phase, seconds in self._context.lifecycle.spent().items()),
        )
        steps = zip(snapshot.history, snapshot.begun, strict=True)
        ready = next((at for (phase, _), at in steps if phase is Phase.READY), None)
        started = snapshot.begun[0] if self._started is None else self._started
        startup = None if ready is None else max(0.0, ready - started)
        text = "From the start of the process until devpi-server was ready for the first time."
        yield gauge("devpi_sidecar_startup_seconds", text, startup)

    def _health(self) -> Iterator[Metric]:
        health = self._context.health
        checks = health.checks()
        blocked = any(check.blocks for check in checks)
        yield gauge("devpi_sidecar_ready", "1 where /readyz answers 200.", float(not blocked))
        yield counters(
            "devpi_sidecar_readiness_transitions",
            "Changes of readiness, by what it became.",
            ("to",),
            (((to,), number) for to, number in health.turns().items()),
        )
        yield gauges(
            "devpi_sidecar_check_status",
            "1 for the status that a check has.",
            ("check", "status"),
            (((c.name, status), float(c.status is status)) for c in checks for status in CheckStatus),
        )
        for unit in UNITS:
            text = f"The values of the checks that have one in {unit}."
            yield gauges(f"devpi_sidecar_check_{unit}", text, ("check",), _values(checks, unit))
        text = "Since the monitor's last tick; +Inf once it has ended."
        yield gauge("devpi_sidecar_monitor_age_seconds", text, health.age())

    def _admission(self, root: RootPasswordStatus) -> Iterator[Metric]:
        text = "1 for the state that root's password is in."
        yield states("devpi_sidecar_root_password", text, "state", RootPassword, root.state)
        expires = None if root.expires is None else root.expires.timestamp()
        text = "When an unclaimed root password is thrown away."
        yield gauge("devpi_sidecar_root_password_expiry_timestamp_seconds", text, expires)
        yield counters(
            "devpi_sidecar_admin_auth_failures",
            "Requests to the admin routes that were turned away, by reason.",
            ("reason",),
            (((reason,), number) for reason, number in auth_failures(self._guard).items()),
        )
        yield counters(
            "devpi_sidecar_http_requests",
            "Requests that the sidecar has answered.",
            ("route", "method", "status"),
            (((route, method, str(status)), n) for (route, method, status), n in self._requests.answered.items()),
        )
        yield histograms(
            "devpi_sidecar_http_request_duration_seconds",
            "How long the sidecar took for an answer.",
            "route",
            SECONDS,
            ((route, found.counts, found.seconds) for route, found in self._requests.durations.items()),
        )


def auth_failures(guard: Guard) -> dict[str, int]:
    """How often the guard turned somebody away, by reason."""
    rejections = guard.rejections
    return {
        "wrong_token": rejections.wrong - rejections.turned_away,
        "too_many": rejections.turned_away,
        **guard.without_guess,
    }


def _values(checks: tuple[Check, ...], unit: str) -> Iterator[tuple[tuple[str], float]]:
    for check in checks:
        if check.unit == unit and check.value is not None:
            yield (check.name,), check.value


def _import(of: ImportStatus) -> Iterator[Metric]:
    text = "1 for the state that the import of /devpi-init.d is in."
    yield states("devpi_sidecar_import_state", text, "state", ImportState, of.state)
    counts = {kind: getattr(of, kind) for kind in _LOADED}
    text = "What the import has to load."
    yield gauges("devpi_sidecar_import_objects", text, ("kind",), (((k,), c.total) for k, c in counts.items()))
    text = "What the import has loaded."
    yield gauges("devpi_sidecar_import_objects_done", text, ("kind",), (((k,), c.done) for k, c in counts.items()))
    yield gauge("devpi_sidecar_import_bytes", "Size of the files that the import has to load.", of.bytes.total)
    yield gauge("devpi_sidecar_import_done_bytes", "Size of the files that the import has loaded.", of.bytes.done)
    yield gauge("devpi_sidecar_import_archive_bytes", "Size of the archives to unpack.", of.extracted.total)
    yield gauge("devpi_sidecar_import_archive_done_bytes", "Bytes of archives unpacked.", of.extracted.done)
    yield gauge("devpi_sidecar_import_files_per_second", "Files a second while loading.", of.rate)
    yield gauge("devpi_sidecar_import_remaining_seconds", "Until loading is done, as it goes now.", of.eta_seconds)
    took = None
    if of.started is not None:
        took = max(0.0, ((of.finished or datetime.now(UTC)) - of.started).total_seconds())
    yield gauge("devpi_sidecar_import_duration_seconds", "How long the import took, or runs by now.", took)
    yield gauge("devpi_sidecar_import_failed", "1 where the import has failed.", float(of.error is not None))


def _started() -> float | None:
    """When this process started, in seconds of the monotonic clock."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        after_name = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2]
        since_boot = int(after_name.split()[19]) / os.sysconf("SC_CLK_TCK")
        return time.monotonic() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot
    return None
