"""`disk`: how much is free on the serverdir's volume."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from sidecar.core.check import PASS, WARN, Verdict
from sidecar.core.disk_hints import hint_to_write, words


@dataclass(frozen=True, slots=True)
class Space:
    """How full the volume is, in bytes."""

    free: int
    """What devpi-server may still take."""
    size: int


def judge_disk(serverdir: Path, warn_bytes: int) -> tuple[Verdict, Space | None]:
    """Count free bytes; fewer than `warn_bytes` warn. Blocks as long as the volume does, which may not tell: None."""
    try:
        found = os.statvfs(serverdir)
    except OSError as error:
        return Verdict(WARN, f"can't look at the volume: {words(error)}"), None
    free = found.f_bavail * found.f_frsize
    space = Space(free, found.f_blocks * found.f_frsize)
    if free < warn_bytes:
        reason = f"{free} bytes are free on the serverdir's volume, fewer than {warn_bytes}"
        return Verdict(WARN, reason, free, "bytes", hint_to_write(OSError(errno.ENOSPC, ""))), space
    return Verdict(PASS, value=free, unit="bytes"), space
