"""`disk`: free bytes of the serverdir's volume."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from sidecar.core.check import PASS, WARN, Verdict
from sidecar.core.disk_hints import hint_to_write, words


@dataclass(frozen=True, slots=True)
class Space:
    """Space on the volume, in bytes."""

    free: int
    """Free for devpi-server."""
    size: int


def judge_disk(serverdir: Path, warn_bytes: int) -> tuple[Verdict, Space | None]:
    """Warn of fewer than `warn_bytes` free. Blocks as long as the volume does. The space is None if it fails."""
    try:
        found = os.statvfs(serverdir)
    except OSError as error:
        return Verdict(WARN, f"can't read the free space of the serverdir's volume: {words(error)}"), None
    free = found.f_bavail * found.f_frsize
    space = Space(free, found.f_blocks * found.f_frsize)
    if free < warn_bytes:
        reason = f"only {free} bytes are free on the serverdir's volume, fewer than {warn_bytes}"
        return Verdict(WARN, reason, free, "bytes", hint_to_write(OSError(errno.ENOSPC, ""))), space
    return Verdict(PASS, value=free, unit="bytes"), space
