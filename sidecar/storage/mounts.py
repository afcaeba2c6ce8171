"""What is mounted where, as the kernel lists it: an advice to the operator depends on it."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_ESCAPED = re.compile(r"\\(\d{3})")
"""How the kernel writes blanks, newlines and backslashes of a path."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A file system, at its place."""

    place: Path
    kind: str
    """`overlay` (a container's own files), `tmpfs`, `ext4`, …; empty: the kernel doesn't tell."""

    @property
    def in_memory(self) -> bool:
        """Whether it is lost with a reboot or the container: no fsync brings it to a disk."""
        return self.kind in _IN_MEMORY


def under(path: Path) -> Mount:
    """The file system that `path` is on, or would be on."""
    path = path.resolve()
    found = Mount(Path("/"), "")
    with suppress(OSError), Path("/proc/self/mountinfo").open(encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            left, _, right = line.partition(" - ")
            place = Path(_ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), left.split(" ")[4]))
            # of several at one place the last is on top
            if path.is_relative_to(place) and len(place.parts) >= len(found.place.parts):
                found = Mount(place, right.partition(" ")[0])
    return found
