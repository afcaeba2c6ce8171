"""The probe of the serverdir's volume: the checks `write` and `disk`. Called in a thread, because it may block."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sidecar.core.check import Verdict
from sidecar.features.health.checks.disk import Space, judge_disk
from sidecar.features.health.checks.write import WriteCheck


@dataclass(frozen=True, slots=True)
class VolumeLook:
    """The result of one probe. Verdicts contain no path, because they are public."""

    write: Verdict
    disk: Verdict
    space: Space | None
    """None: the volume does not report it."""


@dataclass(frozen=True, slots=True)
class Volume:
    """The volume of a serverdir."""

    serverdir: Path
    write: WriteCheck

    @classmethod
    def of(cls, serverdir: Path) -> Volume:
        """The volume as it is now."""
        return cls(serverdir, WriteCheck.of(serverdir))

    def look(self, disk_warn_bytes: int) -> VolumeLook:
        """Write and remove a small file, check the database, and count free bytes."""
        return VolumeLook(self.write.look(), *judge_disk(self.serverdir, disk_warn_bytes))
