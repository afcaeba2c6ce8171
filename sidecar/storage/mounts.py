"""Mounted file systems, as the kernel lists them. Hints for the operator depend on them."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_ESCAPED = re.compile(r"\\(\d{3})")
"""The kernel's escapes for blanks, newlines and backslashes in a path."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system."""

    place: Path
    kind: str
    """`overlay` (a container's own files), `tmpfs`, `ext4`, …; empty: unknown."""

    @property
    def in_memory(self) -> bool:
        """Whether a reboot or the container's end loses it: fsync has no effect."""
        return self.kind in _IN_MEMORY


def under(path: Path) -> Mount:
    """Return the file system of `path`, which need not exist."""
    path = path.resolve()
    found = Mount(Path("/"), "")
    with suppress(OSError), Path("/proc/self/mountinfo").open(encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            left, _, right = line.partition(" - ")
            place = Path(_ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), left.split(" ")[4]))
            # of several mounts at one place, the last one is on top
            if path.is_relative_to(place) and len(place.parts) >= len(found.place.parts):
                found = Mount(place, right.partition(" ")[0])
    return found
