"""One look at the serverdir's volume: the checks `write` and `disk`. Called in a thread, for it may block for long."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sidecar.core.check import Verdict
from sidecar.features.health.checks.disk import Space, judge_disk
from sidecar.features.health.checks.write import WriteCheck


@dataclass(frozen=True, slots=True)
class VolumeLook:
    """What one look at the volume came to. No verdict names a path, for anybody may read it."""

    write: Verdict
    disk: Verdict
    space: Space | None
    """None: the volume does not tell."""


@dataclass(frozen=True, slots=True)
class Volume:
    """The volume of a serverdir, from the begin of watching on."""

    serverdir: Path
    write: WriteCheck

    @classmethod
    def of(cls, serverdir: Path) -> Volume:
        """The volume as it is now."""
        return cls(serverdir, WriteCheck.of(serverdir))

    def look(self, disk_warn_bytes: int) -> VolumeLook:
        """Write a small file and remove it; look at the database; count free bytes."""
        return VolumeLook(self.write.look(), *judge_disk(self.serverdir, disk_warn_bytes))
