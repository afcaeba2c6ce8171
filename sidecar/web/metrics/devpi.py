"""Metrics of all features, devpi-server's own, and those of its process."""

from __future__ import annotations

import math
import re
import resource
from collections.abc import Callable, Iterator

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sidecar.core.sample import gauge
from sidecar.devpi.process import Child
from sidecar.devpi.server_status import Metric as Said
from sidecar.devpi.server_status import ServerStatus
from sidecar.features.health.monitor import Health
from sidecar.web.context import Context
from sidecar.web.metrics.families import family_of

MOST = 100
"""Maximum number of devpi-server's own metrics that are exposed."""
_RESERVED = ("devpi_sidecar_", "devpi_serverdir_", "devpi_server_process_", "devpi_server_http_")
_SUFFIX = re.compile(r"(_total|_created|_info|_bucket|_count|_sum)+$")


class FeaturesCollector:
    """A collector of prometheus_client: the families of all features, then devpi-server's own."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def describe(self) -> list[Metric]:
        """Return nothing: no other collector has these names, so the registry need not compare them."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all families, also empty ones."""
        ours = [family_of(family) for feature in self._context.features for family in feature.samples()]
        yield from ours
        status = self._context.of(Health).server_status() or ServerStatus()
        yield from own(status.metrics, {family.name for family in ours})


class DevpiProcess(ProcessCollector):
    """The process of devpi-server. `Child.open_files` counts its descriptors: only root may read its `/proc/PID/fd`."""

    def __init__(self, child: Callable[[], Child]) -> None:
        """`child`: returns the current process."""
        super().__init__(namespace="devpi_server", pid=lambda: child().pid, registry=None)
        self._child = child

    def collect(self) -> Iterator[Metric]:
        """Yield the families of `ProcessCollector`."""
        yield from (family for family in super().collect() if not family.name.endswith("_fds"))
        text = "Maximum number of open file descriptors."
        yield family_of(gauge("devpi_server_process_max_fds", text, self._most_files()))
        text = "Number of open file descriptors."
        yield family_of(gauge("devpi_server_process_open_fds", text, self._child().open_files()))

    def _most_files(self) -> float | None:
        try:
            soft, _ = resource.prlimit(self._child().pid, resource.RLIMIT_NOFILE)
        except OSError:
            return None
        return math.inf if soft == resource.RLIM_INFINITY else soft


def own(said: tuple[Said, ...], taken: set[str]) -> Iterator[Metric]:
    """Yield at most `MOST` metrics of devpi-server and its plugins, whose names can be anything.

    A name without the prefix `devpi_` gets `devpi_plugin_`; one in `taken` or reserved for the sidecar is left out.
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
        text = "As reported by devpi-server in +status."
        if each.kind == "counter":
            yield CounterMetricFamily(name, text, each.value)
        else:
            yield GaugeMetricFamily(name, text, each.value)
