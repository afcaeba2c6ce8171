"""The numbers as metrics. The families exist even if nothing is known."""

from __future__ import annotations

from collections.abc import Iterator

from sidecar.core.sample import Family, counters, gauge, gauges, histograms
from sidecar.devpi.protocol import REQUEST_SECONDS, Requests
from sidecar.features.health.checks.disk import Space
from sidecar.features.numbers.amounts import Contents
from sidecar.storage.usage import Used


def contents(of: Contents | None) -> Iterator[Family]:
    """Return the content of devpi-server."""
    projects, users = (None, None) if of is None else (of.projects, of.users)
    kinds = () if of is None else (("stage", of.stages), ("mirror", of.mirrors))
    yield gauge("devpi_server_projects", "Projects in all indexes except mirrors.", projects)
    yield gauge("devpi_server_users", "Users, including root.", users)
    yield gauges("devpi_server_indexes", "Indexes by type.", ("type",),
                 (((kind,), number) for kind, number in kinds if number is not None))  # fmt: skip


def requests(said: Requests | None) -> Iterator[Family]:
    """Return the requests that devpi-server has answered."""
    routes = {} if said is None else said.routes
    yield counters("devpi_server_http_requests", "Requests that devpi-server has answered.", ("route", "status"),
                   (((name, code), number) for name, route in routes.items()
                    for code, number in route["statuses"].items()))  # fmt: skip
    yield histograms("devpi_server_http_request_duration_seconds",
                     "Time from a request to the end of its answer.", "route", REQUEST_SECONDS,
                     ((name, route["durations"], route["seconds"]) for name, route in routes.items()))  # fmt: skip
    yield counters("devpi_server_http_request_bytes", "Bytes of request bodies received by devpi-server.", ("route",),
                   (((name,), route["received"]) for name, route in routes.items()))  # fmt: skip
    yield counters("devpi_server_http_response_bytes", "Bytes of response bodies sent by devpi-server.", ("route",),
                   (((name,), route["bytes"]) for name, route in routes.items()))  # fmt: skip
    yield gauges("devpi_server_http_requests_in_flight", "Requests that devpi-server is answering.", ("route",),
                 (((name,), route["in_flight"]) for name, route in routes.items()))  # fmt: skip


def used(last: Used | None) -> Iterator[Family]:
    """Return the disk space of the serverdir."""
    size, files, at = (None, None, None) if last is None else (last.bytes, last.files, last.at)
    yield gauge("devpi_serverdir_used_bytes", "Disk space of the serverdir, by the last count.", size)
    yield gauge("devpi_serverdir_files", "Files and folders in the serverdir, by the last count.", files)
    yield gauge("devpi_serverdir_counted_timestamp_seconds", "Time of the last count.", at)


def space(last: Space | None) -> Iterator[Family]:
    """Return the free space of the volume."""
    free, size = (None, None) if last is None else (last.free, last.size)
    yield gauge("devpi_serverdir_free_bytes", "Free space for devpi-server on the serverdir's volume.", free)
    yield gauge("devpi_serverdir_volume_bytes", "Size of the serverdir's volume.", size)
