"""The import in `/status` and `/metrics`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from sidecar.core.feature import Json
from sidecar.core.public import public, rfc3339
from sidecar.core.sample import Family, gauge, gauges, states
from sidecar.features.bootstrap.import_status import Count, ImportFailure, ImportState, ImportStatus

_LOADED = ("users", "indexes", "projects", "files")


def as_json(of: ImportStatus) -> Json:
    """Return the import as in `/status`."""
    return {
        "state": of.state.value,
        "archives": [{"name": a.name, "bytes": a.bytes, "sha256": a.sha256} for a in of.archives],
        "ignored": list(of.ignored),
        "left_out": {
            "total": of.left_out_total,
            "first": [
                {"archive": each.archive, "member": each.member, "reason": public(each.reason)} for each in of.left_out
            ],
        },
        "users": _count(of.users),
        "indexes": _count(of.indexes),
        "projects": _count(of.projects),
        "files": _count(of.files),
        "bytes": _count(of.bytes),
        "extracted": _count(of.extracted),
        "current": of.current,
        "rate": None if of.rate is None else round(of.rate, 1),
        "eta_seconds": None if of.eta_seconds is None else round(of.eta_seconds, 1),
        "started": rfc3339(of.started),
        "finished": rfc3339(of.finished),
        "error": _failure(of.error),
    }


def _failure(of: ImportFailure | None) -> Json | None:
    if of is None:
        return None
    return {
        "archive": public(of.archive),
        "member": of.member,
        "reason": public(of.reason),
        "hint": public(of.hint),
    }


def _count(of: Count) -> Json:
    return {"done": of.done, "total": of.total}


def families(of: ImportStatus) -> Iterator[Family]:
    """Return the import's metrics."""
    text = "1 for the current state of the import of /devpi-init.d, 0 for the others."
    yield states("devpi_sidecar_import_state", text, "state", ImportState, of.state)
    counts = {kind: getattr(of, kind) for kind in _LOADED}
    text = "Objects that the import has to load."
    yield gauges("devpi_sidecar_import_objects", text, ("kind",), (((k,), c.total) for k, c in counts.items()))
    text = "Objects that the import has loaded."
    yield gauges("devpi_sidecar_import_objects_done", text, ("kind",), (((k,), c.done) for k, c in counts.items()))
    yield gauge("devpi_sidecar_import_bytes", "Size of the files that the import has to load.", of.bytes.total)
    yield gauge("devpi_sidecar_import_done_bytes", "Size of the files that the import has loaded.", of.bytes.done)
    yield gauge(
        "devpi_sidecar_import_archive_bytes", "Size of the archives that the import has to unpack.", of.extracted.total
    )
    yield gauge("devpi_sidecar_import_archive_done_bytes", "Bytes of the archives unpacked so far.", of.extracted.done)
    yield gauge("devpi_sidecar_import_files_per_second", "Files that the import loads per second.", of.rate)
    yield gauge("devpi_sidecar_import_remaining_seconds", "Estimated time until loading is done.", of.eta_seconds)
    took = None
    if of.started is not None:
        took = max(0.0, ((of.finished or datetime.now(UTC)) - of.started).total_seconds())
    yield gauge("devpi_sidecar_import_duration_seconds", "Duration of the import, so far or in total.", took)
    yield gauge("devpi_sidecar_import_failed", "1 if the import has failed.", float(of.error is not None))
