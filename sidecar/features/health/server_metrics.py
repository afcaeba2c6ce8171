"""What devpi-server has told of itself, as metrics: what it said last, never a question to it."""

from __future__ import annotations

from collections.abc import Iterator

from sidecar.core.lifecycle import DevpiInfo
from sidecar.core.sample import Family, gauge, gauges, info
from sidecar.devpi.server_status import ServerStatus

REPLICAS = 32
"""Replicas that are told apart: those that asked last."""


def server(devpi: DevpiInfo | None, status: ServerStatus, at: float | None) -> Iterator[Family]:
    """The devpi-server that runs; `at`: when it told its status, in seconds since the epoch."""
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


def replication(status: ServerStatus) -> Iterator[Family]:
    """Its replicas, or its primary."""
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
