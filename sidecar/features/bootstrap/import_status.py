"""The status of the import: updated by the importer's reports, and kept across restarts."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sidecar.core import files as durable
from sidecar.core.lifecycle import now
from sidecar.devpi.protocol import ImportState, Progress
from sidecar.exports.sources import LeftOut

__all__ = [
    "Archive",
    "Count",
    "ImportFailure",
    "ImportState",
    "ImportStatus",
    "LeftOut",
    "Tracker",
    "load",
    "save",
    "to_json",
]

_COUNTS = ("users", "indexes", "projects", "files", "bytes", "extracted")
_TIMES = ("started", "finished")


@dataclass(frozen=True, slots=True)
class Archive:
    """One archive or directory of `/devpi-init.d`."""

    name: str
    bytes: int
    sha256: str | None = None
    """None until the archive has been read."""


@dataclass(frozen=True, slots=True)
class Count:
    """A number done, of a total."""

    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class ImportFailure:
    """Why an import failed."""

    reason: str
    hint: str
    archive: str | None = None
    member: str | None = None


@dataclass(frozen=True, slots=True)
class ImportStatus:
    """The status of the import; kept across restarts."""

    state: ImportState = ImportState.NONE
    archives: tuple[Archive, ...] = ()
    ignored: tuple[str, ...] = ()
    """Names in `/devpi-init.d` that are not exports."""
    left_out_total: int = 0
    left_out: tuple[LeftOut, ...] = ()
    """The first of what was left out."""
    users: Count = Count()
    indexes: Count = Count()
    projects: Count = Count()
    files: Count = Count()
    bytes: Count = Count()
    extracted: Count = Count()
    """Bytes of the archives read so far while extracting."""
    current: str | None = None
    """The user, index or project being loaded."""
    rate: float | None = None
    """Files per second while loading."""
    eta_seconds: float | None = None
    started: datetime | None = None
    finished: datetime | None = None
    error: ImportFailure | None = None


class Tracker:
    """Follows one import. Its rate and remaining time are those of loading, the longest part."""

    def __init__(self, status: ImportStatus, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns seconds that never go back."""
        self.status = status
        self._clock = clock
        self._loading_since: float | None = None

    def advance(self, report: Progress) -> ImportStatus:
        """Update the status by a report of the importer."""
        state, status = ImportState(report.state), self.status
        changes: dict[str, Any] = {"state": state, "current": report.current}
        if report.archives is not None:
            changes["archives"] = (*status.archives, *(Archive(**each) for each in report.archives))
        if report.ignored is not None:
            changes["ignored"] = (*status.ignored, *report.ignored)
        if report.left_out is not None:
            changes["left_out_total"] = report.left_out["total"]
            changes["left_out"] = tuple(LeftOut(**each) for each in report.left_out["first"])
        if digests := report.digests:
            changes["archives"] = tuple(
                replace(each, sha256=digests.get(each.name, each.sha256)) for each in status.archives
            )
        for name, (done, total) in (report.counts or {}).items():
            changes[name] = Count(done, total)
        if state is ImportState.LOADING and self._loading_since is None:
            self._loading_since = self._clock()
        self.status = replace(status, **changes)
        if self._loading_since is not None and (files := self.status.files).done:
            rate = files.done / max(self._clock() - self._loading_since, 0.001)
            eta = (files.total - files.done) / rate
            self.status = replace(self.status, rate=round(rate, 2), eta_seconds=round(eta, 1))
        return self.status

    def end(self, state: ImportState, error: ImportFailure | None = None) -> ImportStatus:
        """Record that the import has completed or failed."""
        self.status = replace(self.status, state=state, finished=now(), eta_seconds=None, error=error)
        return self.status


def save(path: Path, status: ImportStatus, fingerprint: list[list[Any]]) -> None:
    """Write `status`, and the archives' fingerprint, to the file `path`. Raises OSError."""
    durable.write_file(path, json.dumps({"status": to_json(status), "fingerprint": fingerprint}).encode())


def load(path: Path) -> tuple[ImportStatus, list[list[Any]]] | None:
    """Return what `save` wrote; None if it is absent or damaged: the import's record is not worth a failure."""
    try:
        content = durable.read_file(path, 16 * 2**20)
        if content is None:
            return None
        record = json.loads(content)
        fingerprint = record["fingerprint"]
        if not isinstance(fingerprint, list) or not all(isinstance(each, list) for each in fingerprint):
            return None
        return _from_json(record["status"]), fingerprint
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def to_json(status: ImportStatus) -> dict[str, Any]:
    """Return the status for JSON, with times in RFC 3339."""
    fields = dataclasses.asdict(status)
    for name in _TIMES:
        at: datetime | None = fields[name]
        fields[name] = None if at is None else at.isoformat()
    return fields


def _from_json(fields: dict[str, Any]) -> ImportStatus:
    changes = dict(fields)
    for name in _TIMES:
        changes[name] = None if fields[name] is None else datetime.fromisoformat(fields[name])
    for name in _COUNTS:
        changes[name] = Count(**fields[name])
    changes["state"] = ImportState({"promoting": "installing"}.get(fields["state"], fields["state"]))
    changes["archives"] = tuple(Archive(**each) for each in fields["archives"])
    changes["ignored"] = tuple(fields["ignored"])
    changes["left_out"] = tuple(LeftOut(**each) for each in fields.get("left_out", ()))  # older records have none
    changes["error"] = None if fields["error"] is None else ImportFailure(**_hinted(fields["error"]))
    return ImportStatus(**changes)


def _hinted(fields: dict[str, Any]) -> dict[str, Any]:
    """Rename the field of an older record."""
    return {"hint" if name == "mend" else name: value for name, value in dict(fields).items()}
