"""devpi-server's own figures as metrics: from its last `+status`, never a request to it."""

from __future__ import annotations

from collections.abc import Iterator

from sidecar.core.lifecycle import DevpiInfo
from sidecar.core.sample import Family, gauge, gauges, info
from sidecar.devpi.server_status import ServerStatus

REPLICAS = 32
"""Maximum replicas with a metric of their own: those that asked last."""


def server(devpi: DevpiInfo | None, status: ServerStatus, at: float | None) -> Iterator[Family]:
    """Return the metrics of the running devpi-server; `at`: time of `status`, in seconds since the epoch."""
    labels = {} if devpi is None else {"version": devpi.version, "role": devpi.role.lower()}
    yield info("devpi_server_build", "Version and role of the running devpi-server.", **labels)
    text = "Time of devpi-server's last +status, the source of most devpi_server_* metrics."
    yield gauge("devpi_server_status_timestamp_seconds", text, at)
    yield gauge("devpi_server_serial", "Serial of the last committed change.", status.serial)
    yield gauge("devpi_server_event_serial", "Serial of the last change whose events are processed.",
                status.event_serial)  # fmt: skip
    yield gauge("devpi_server_event_lag_serials", "Changes whose events are not processed yet.",
                status.events_behind)  # fmt: skip
    yield gauge("devpi_server_last_commit_timestamp_seconds", "Time of the last committed change.",
                status.last_commit_timestamp)  # fmt: skip
    yield gauge("devpi_server_search_index_backlog", "Projects that devpi-web has not indexed yet.",
                status.search_index_queue)  # fmt: skip


def replication(status: ServerStatus) -> Iterator[Family]:
    """Return the metrics of its replicas, or of its primary."""
    yield gauge("devpi_server_replicas", "Replicas that have polled this primary.", status.polling_replicas)
    named = [(each.uuid, each) for each in status.replicas if each.uuid is not None][:REPLICAS]
    yield gauges("devpi_server_replica_lag_serials", "Changes that a replica has not fetched from this primary yet.",
                 ("replica",), (((uuid,), lag) for uuid, each in named
                                if (lag := status.lag(each)) is not None))  # fmt: skip
    yield gauges("devpi_server_replica_asked_timestamp_seconds", "Time of a replica's last request to this primary.",
                 ("replica",), (((uuid,), each.asked_at) for uuid, each in named
                                if each.asked_at is not None))  # fmt: skip
    yield gauge("devpi_server_primary_serial", "Serial of the primary's last change known to this replica.",
                status.primary_serial)  # fmt: skip
    yield gauge("devpi_server_primary_lag_serials", "Changes that this replica has not fetched yet.", status.behind)
    yield gauge("devpi_server_primary_heard_timestamp_seconds", "Time of the primary's last answer to this replica.",
                status.update_from_primary_at)  # fmt: skip
    yield gauge("devpi_server_replication_errors", "Files that this replica can't fetch from its primary.",
                status.replication_errors)  # fmt: skip
