"""The upstreams as metrics. The families exist even if nothing is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sidecar.core.sample import Family, counters, gauges, histograms
from sidecar.devpi.protocol import UPSTREAM_SECONDS
from sidecar.features.mirror.upstream_state import OUTCOMES, Counts, Upstream

_INDEX = ("index",)


def families(upstreams: Sequence[Upstream], counts: Mapping[str, Counts]) -> Iterator[Family]:
    """Return the present state of each upstream, and the counts of all of devpi-server's processes."""
    yield gauges("devpi_server_upstream_up", "1 unless the last request to the upstream failed.", _INDEX,
                 (((each.index,), float(each.state == "up")) for each in upstreams))  # fmt: skip
    yield gauges("devpi_server_upstream_success_timestamp_seconds", "Time of the upstream's last answer.", _INDEX,
                 (((each.index,), each.last_success.timestamp())
                  for each in upstreams if each.last_success))  # fmt: skip
    yield counters("devpi_server_upstream_requests", "Requests to the upstreams of mirrors.", ("index", "result"),
                   (((index, result), number) for index, of in counts.items()
                    for result, number in of.answers))  # fmt: skip
    yield histograms("devpi_server_upstream_request_duration_seconds",
                     "Time from a request to an upstream to the end of its answer.", "index", UPSTREAM_SECONDS,
                     ((index, of.durations, of.seconds) for index, of in counts.items()))  # fmt: skip
    yield counters("devpi_server_upstream_response_bytes", "Bytes of response bodies received from upstreams.", _INDEX,
                   (((index,), of.received) for index, of in counts.items()))  # fmt: skip
    yield counters("devpi_server_mirror_pages", "Clients' requests for pages of mirrors.", ("index", "result"),
                   (((index, outcome), number) for index, of in counts.items()
                    for outcome, number in zip(OUTCOMES, of.pages, strict=True)))  # fmt: skip
    yield counters("devpi_server_mirror_files", "Clients' requests for files of mirrors.", ("index", "result"),
                   (((index, outcome), number) for index, of in counts.items()
                    for outcome, number in zip(OUTCOMES, of.files, strict=True)))  # fmt: skip
    yield gauges("devpi_server_mirror_list_projects", "Projects in the upstream's list of all projects.", _INDEX,
                 (((each.index,), each.list.names) for each in upstreams if each.list.names is not None))  # fmt: skip
    yield gauges("devpi_server_mirror_list_timestamp_seconds", "Time of the last refresh of this list.", _INDEX,
                 (((each.index,), each.list.refreshed.timestamp())
                  for each in upstreams if each.list.refreshed))  # fmt: skip
