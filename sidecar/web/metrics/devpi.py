"""What is known of devpi-server, as metrics: what it said last, never a question to it."""

from __future__ import annotations

import math
import re
import resource
from collections.abc import Iterator

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sidecar.core.lifecycle import Contents, DevpiInfo
from sidecar.devpi.process import Child
from sidecar.devpi.protocol import REQUEST_SECONDS, Requests
from sidecar.devpi.server_status import Metric as Said
from sidecar.devpi.server_status import ServerStatus
from sidecar.features.health.checks.disk import Space
from sidecar.storage.usage import Used
from sidecar.web.context import Context
from sidecar.web.metrics.families import counters, gauge, gauges, histograms, info

MOST = 100
"""Metrics of devpi's plugins that are passed on."""
REPLICAS = 32
"""Replicas that are told apart: those that asked last."""
_RESERVED = ("devpi_sidecar_", "devpi_serverdir_", "devpi_server_process_", "devpi_server_http_")
_SUFFIX = re.compile(r"(_total|_created|_info|_bucket|_count|_sum)+$")


class DevpiCollector:
    """For a registry of prometheus_client."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def describe(self) -> list[Metric]:
        """Nothing that the registry need compare: this collector is the only one of these names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All families, the empty ones too; then those of devpi's own."""
        target = self._context.health.target()
        child = self._context.child
        usage = self._context.usage
        status = (None if target is None else target.status) or ServerStatus()
        ours = [
            *_server(self._context.lifecycle.snapshot.devpi, status, None if target is None else target.status_at),
            *_replication(status),
            *_contents(self._context.lifecycle.snapshot.contents),
            *_requests(None if child is None else child.requests),
            *_used(None if usage is None else usage.last),
            *_space(None if target is None else target.space),
        ]
        yield from ours
        yield from own(status.metrics, {family.name for family in ours})


class DevpiProcess(ProcessCollector):
    """The process of devpi-server. Its descriptors are counted by `Child.open_files`: its `/proc/PID/fd` is root's."""

    def __init__(self, child: Child) -> None:
        super().__init__(namespace="devpi_server", pid=lambda: child.pid, registry=None)
        self._child = child

    def collect(self) -> Iterator[Metric]:
        """The families that `ProcessCollector` has."""
        yield from (family for family in super().collect() if not family.name.endswith("_fds"))
        text = "Maximum number of open file descriptors."
        yield gauge("devpi_server_process_max_fds", text, self._most_files())
        yield gauge("devpi_server_process_open_fds", "Number of open file descriptors.", self._child.open_files())

    def _most_files(self) -> float | None:
        try:
            soft, _ = resource.prlimit(self._child.pid, resource.RLIMIT_NOFILE)
        except OSError:
            return None
        return math.inf if soft == resource.RLIM_INFINITY else soft


def _server(devpi: DevpiInfo | None, status: ServerStatus, at: float | None) -> Iterator[Metric]:
    said = {} if devpi is None else {"version": devpi.version, "role": devpi.role.lower()}
    yield info("devpi_server_build", "The devpi-server that runs.", **said)
    text = "When devpi-server told its status last; what follows from it is as old."
    yield gauge("devpi_server_status_timestamp_seconds", text, at)
    yield gauge("devpi_server_serial", "The last change that is committed.", status.serial)
    yield gauge("devpi_server_event_serial", "The last change of which the events are processed.",
                status.event_serial)  # fmt: skip
    yield gauge("devpi_server_event_lag_serials", "Changes of which the events are still to be processed.",
                status.events_behind)  # fmt: skip
    yield gauge("devpi_server_last_commit_timestamp_seconds", "When the last change was committed.",
                status.last_commit_timestamp)  # fmt: skip
    yield gauge("devpi_server_search_index_backlog", "Projects that devpi-web has still to index.",
                status.search_index_queue)  # fmt: skip


def _replication(status: ServerStatus) -> Iterator[Metric]:
    yield gauge("devpi_server_replicas", "Replicas that have asked this primary.", status.polling_replicas)
    serial, primary = status.serial, status.primary_serial
    named = [(each.uuid, each) for each in status.replicas if each.uuid is not None][:REPLICAS]
    yield gauges("devpi_server_replica_lag_serials", "Changes that a replica has still to fetch from this primary.",
                 ("replica",), (((uuid,), max(0, serial - each.serial)) for uuid, each in named
                                if serial is not None and each.serial is not None))  # fmt: skip
    yield gauges("devpi_server_replica_asked_timestamp_seconds", "When a replica has asked this primary last.",
                 ("replica",), (((uuid,), each.asked_at) for uuid, each in named
                                if each.asked_at is not None))  # fmt: skip
    behind = None if primary is None or serial is None else max(0, primary - serial)
    yield gauge("devpi_server_primary_serial", "The last change that this replica knows its primary to have.", primary)
    yield gauge("devpi_server_primary_lag_serials", "Changes that this replica has still to fetch.", behind)
    yield gauge("devpi_server_primary_heard_timestamp_seconds", "When this replica has heard from its primary last.",
                status.update_from_primary_at)  # fmt: skip
    yield gauge("devpi_server_replication_errors", "Files that this replica can't fetch from its primary.",
                status.replication_errors)  # fmt: skip


def _contents(of: Contents | None) -> Iterator[Metric]:
    projects, users = (None, None) if of is None else (of.projects, of.users)
    kinds = () if of is None else (("stage", of.stages), ("mirror", of.mirrors))
    yield gauge("devpi_server_projects", "Projects in all indexes that are no mirrors.", projects)
    yield gauge("devpi_server_users", "Users, root included.", users)
    yield gauges("devpi_server_indexes", "Indexes, by their type.", ("type",),
                 (((kind,), number) for kind, number in kinds if number is not None))  # fmt: skip


def _requests(said: Requests | None) -> Iterator[Metric]:
    routes = {} if said is None else said.routes
    yield counters("devpi_server_http_requests", "Requests that devpi-server has answered.", ("route", "status"),
                   (((name, code), number) for name, route in routes.items()
                    for code, number in route["statuses"].items()))  # fmt: skip
    yield histograms("devpi_server_http_request_duration_seconds",
                     "How long devpi-server took for an answer, to the end of its body.", "route", REQUEST_SECONDS,
                     ((name, route["durations"], route["seconds"]) for name, route in routes.items()))  # fmt: skip
    yield counters("devpi_server_http_request_bytes", "Bytes of the bodies that devpi-server has taken.", ("route",),
                   (((name,), route["received"]) for name, route in routes.items()))  # fmt: skip
    yield counters("devpi_server_http_response_bytes", "Bytes of the bodies that devpi-server has sent.", ("route",),
                   (((name,), route["bytes"]) for name, route in routes.items()))  # fmt: skip
    yield gauges("devpi_server_http_requests_in_flight", "Requests that devpi-server is answering.", ("route",),
                 (((name,), route["in_flight"]) for name, route in routes.items()))  # fmt: skip


def _used(last: Used | None) -> Iterator[Metric]:
    size, files, at = (None, None, None) if last is None else (last.bytes, last.files, last.at)
    yield gauge("devpi_serverdir_used_bytes", "What the serverdir takes on disk, as it was counted last.", size)
    yield gauge("devpi_serverdir_files", "Files and folders in the serverdir, as they were counted last.", files)
    yield gauge("devpi_serverdir_counted_timestamp_seconds", "When they were counted.", at)


def _space(last: Space | None) -> Iterator[Metric]:
    free, size = (None, None) if last is None else (last.free, last.size)
    yield gauge("devpi_serverdir_free_bytes", "What devpi-server may still take of the serverdir's volume.", free)
    yield gauge("devpi_serverdir_volume_bytes", "Size of the serverdir's volume.", size)


def own(said: tuple[Said, ...], taken: set[str]) -> Iterator[Metric]:
    """devpi's own metrics and its plugins', which may have any name: those that don't begin with `devpi_` get
    `devpi_plugin_` before it, and what would stand for a metric of ours is left out. At most `MOST`.
    """
    seen = set(taken)
    for each in said:
        name = _SUFFIX.sub("", re.sub(r"[^a-zA-Z0-9_]", "_", each.name[:100]))
        if not name.startswith("devpi_"):
            name = f"devpi_plugin_{name}"
        if name in seen or name.startswith(_RESERVED):
            continue
        if len(seen) >= len(taken) + MOST:
            return
        seen.add(name)
        text = "As devpi-server's own +status tells it."
        if each.kind == "counter":
            yield CounterMetricFamily(name, text, each.value)
        else:
            yield GaugeMetricFamily(name, text, each.value)
