"""Logs each change of phase and each notice, and provides the phase for every log line of all processes.

The processes share one byte in a memory file: a message to devpi-server could arrive after its next log line.
"""

from __future__ import annotations

import logging
import os

from sidecar.core.lifecycle import Lifecycle, Phase, Snapshot

log = logging.getLogger(__name__)

_PHASES = tuple(Phase)


class Journal:
    """Logs the changes of a lifecycle."""

    def __init__(self, lifecycle: Lifecycle, shared: int) -> None:
        """Keep the phase in the file `shared`, for `phase_of`."""
        self._shared = shared
        lifecycle.subscribe(self._lived)

    def _lived(self, before: Snapshot, after: Snapshot) -> None:
        for notice in after.notices[len(before.notices) :]:
            log.warning("%s; %s", notice.reason, notice.hint)
        if before.phase is after.phase:
            return
        os.pwrite(self._shared, bytes([_PHASES.index(after.phase)]), 0)
        seconds = after.begun[-1] - before.begun[-1]
        fields = {"sidecar.phase_before": before.phase.value, "event.duration": round(seconds * 1e9)}
        log.info("phase: %s, after %.1f s of %s", after.phase, seconds, before.phase, extra={"fields": fields})


def phase_of(shared: int) -> Phase:
    """Return the phase that a `Journal` of any process wrote last into the file `shared`; at first `STARTING`."""
    try:
        return _PHASES[os.pread(shared, 1, 0)[0]]
    except (IndexError, OSError):  # not written yet, or closed by a plugin: logging must not fail
        return Phase.STARTING
