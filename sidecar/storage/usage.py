"""The size of the serverdir, counted in the background, rarely and slowly enough not to disturb devpi-server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sidecar.core.lifecycle import Lifecycle, Phase, Snapshot

log = logging.getLogger(__name__)

EVERY = 900.0
"""Seconds from the end of one count to the start of the next."""
_AT_ONCE = 256
"""Files in one batch, which takes 1 to 2 ms."""
_REST = 19.0
"""Pause after a batch, as a multiple of its duration: a count takes 5 % of a core, however many files there are."""


@dataclass(frozen=True, slots=True)
class Used:
    """The result of a count."""

    bytes: int
    """On disk; a file with several names counts once."""
    files: int
    at: float
    """The end of the count, in seconds since the epoch."""


class Usage:
    """Counts repeatedly, once devpi-server has been ready. Lives on the event loop."""

    def __init__(self, lifecycle: Lifecycle, served: Callable[[], Path | None]) -> None:
        """`served` returns the serverdir of the running devpi-server, or None."""
        self.last: Used | None = None
        """None: no count has finished yet."""
        self._served = served
        self._ready = asyncio.Event()
        lifecycle.subscribe(self._lived)

    async def run(self) -> None:
        """Count until cancelled."""
        while True:
            await self._ready.wait()
            if (serverdir := self._served()) is not None:
                try:
                    self.last = await count(serverdir)
                except OSError as error:
                    log.debug("can't count the serverdir's bytes: %s", error.strerror)
            await asyncio.sleep(EVERY)

    def _lived(self, _before: Snapshot, after: Snapshot) -> None:
        if after.phase is Phase.READY:
            self._ready.set()


async def count(directory: Path) -> Used:
    """Count the bytes of all files below `directory`. Raises OSError if that can't be read."""
    entries = _entries(directory)
    size = files = 0
    while True:
        began = time.monotonic()
        go = await asyncio.to_thread(lambda: list(itertools.islice(entries, _AT_ONCE)))
        size, files = size + sum(go), files + len(go)
        if len(go) < _AT_ONCE:
            return Used(size, files, time.time())
        await asyncio.sleep(_REST * (time.monotonic() - began))


def _entries(directory: Path) -> Iterator[int]:
    """The bytes of each file and folder, depth first: only the folders of one path are open at a time."""
    open_folders = [os.scandir(directory)]
    try:
        while open_folders:
            entry = next(open_folders[-1], None)
            if entry is None:
                open_folders.pop().close()
                continue
            with contextlib.suppress(OSError):  # devpi-server may have deleted it meanwhile
                found = entry.stat(follow_symlinks=False)
                is_folder = entry.is_dir(follow_symlinks=False)
                yield found.st_blocks * 512 // (1 if is_folder else max(found.st_nlink, 1))
                if is_folder:
                    open_folders.append(os.scandir(entry.path))
    finally:
        for folder in open_folders:
            folder.close()
