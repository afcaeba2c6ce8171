"""The metrics of an exposition, with the names of the documentation."""

from __future__ import annotations

from prometheus_client.openmetrics.parser import text_string_to_metric_families

SUFFIXES = {"counter": "_total", "info": "_info"}


def families(openmetrics: str) -> dict[str, tuple[str, set[str]]]:
    """Return name → type, and the labels of its samples."""
    return {
        family.name + SUFFIXES.get(family.type, ""): (
            family.type,
            {label for sample in family.samples for label in sample.labels if label != "le"},
        )
        for family in text_string_to_metric_families(openmetrics)
    }


def is_devpis_own(name: str) -> bool:
    """Whether devpi-server or a plugin reports it under this name."""
    of_a_replica = ("devpi_server_replica_file_download", "devpi_server_replica_initial_files")
    return "_cache_" in name or name.startswith(("devpi_web_", "devpi_plugin_", *of_a_replica))
