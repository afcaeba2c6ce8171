"""List the files of an image that a running container never opens: leave them out, or test more.

    docker run --detach --name watched …; python3 docker/unopened.py watched

Uses fanotify, so it must run as root on the engine's machine. When the container ends, it prints the files that no
process has opened since it started, with their sizes in bytes, largest first.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import subprocess
import sys
from pathlib import Path

FAN_CLOEXEC, FAN_NONBLOCK, FAN_UNLIMITED_QUEUE = 0x1, 0x2, 0x10
FAN_MARK_ADD, FAN_MARK_FILESYSTEM = 0x1, 0x100
FAN_OPEN = 0x20
AT_FDCWD = -100
EVENT = struct.Struct("=IBBHQii")
"""struct fanotify_event_metadata"""


def main(container: str) -> int:
    """Watch until the container ends, then print the list."""
    shown = ["docker", "inspect", "--format", "{{.GraphDriver.Data.MergedDir}}", container]
    root = Path(subprocess.run(shown, capture_output=True, text=True, check=True).stdout.strip())
    files = {path: path.stat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.fanotify_init(FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE, os.O_RDONLY | os.O_CLOEXEC)
    mask = ctypes.c_uint64(FAN_OPEN)
    flags = FAN_MARK_ADD | FAN_MARK_FILESYSTEM
    if descriptor < 0 or libc.fanotify_mark(descriptor, flags, mask, AT_FDCWD, os.fsencode(root)):
        raise OSError(ctypes.get_errno(), "fanotify failed")
    opened: set[Path] = set()
    with subprocess.Popen(["docker", "wait", container], stdout=subprocess.DEVNULL) as running:
        while running.poll() is None:
            if select.select([descriptor], [], [], 0.5)[0]:
                opened.update(_events(os.read(descriptor, 1 << 20)))
    unopened = {path: size for path, size in files.items() if Path("/", path.relative_to(root)) not in opened}
    for path, size in sorted(unopened.items(), key=lambda each: (-each[1], each[0])):
        sys.stdout.write(f"{size:9} /{path.relative_to(root)}\n")
    sys.stdout.write(f"{sum(unopened.values()):9} bytes in {len(unopened)} of {len(files)} files\n")
    return 0


def _events(data: bytes) -> set[Path]:
    """Return the paths of the opened files in the container."""
    names = set()
    while data:
        length, _, _, _, _, descriptor, _ = EVENT.unpack_from(data)
        names.add(Path(f"/proc/self/fd/{descriptor}").readlink())
        os.close(descriptor)
        data = data[length:]
    return names


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
