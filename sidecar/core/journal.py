"""A log line for each phase of the container's life and each notice, and the phase on every line, of all processes.

They share a file in memory, of one byte: a message to devpi-server would come later than its next line.
"""

from __future__ import annotations

import logging
import os

from sidecar.core.lifecycle import Lifecycle, Phase, Snapshot

log = logging.getLogger(__name__)

_PHASES = tuple(Phase)


class Journal:
    """Follows a lifecycle."""

    def __init__(self, lifecycle: Lifecycle, shared: int) -> None:
        """From now on, `phase_of` tells the phase to all who have the file `shared`."""
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
    """What a `Journal` wrote into the file `shared` last, in whichever process; before that, the first phase."""
    try:
        return _PHASES[os.pread(shared, 1, 0)[0]]
    except (IndexError, OSError):  # not written yet; or a plugin has closed it, and lines of the log must not fail
        return Phase.STARTING
