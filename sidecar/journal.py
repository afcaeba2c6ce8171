"""A log line for each phase of the container's life, and the phase on every line."""

from __future__ import annotations

import logging

from sidecar.lifecycle import Lifecycle, Snapshot
from sidecar.logs import Lines

log = logging.getLogger(__name__)


class Journal:
    """Follows a lifecycle."""

    def __init__(self, lifecycle: Lifecycle, lines: Lines) -> None:
        """From now on `lines` have the phase."""
        self._lines = lines
        lines.phase = lifecycle.snapshot.phase.value
        lifecycle.subscribe(self._lived)

    def _lived(self, before: Snapshot, after: Snapshot) -> None:
        if before.phase is after.phase:
            return
        self._lines.phase = after.phase.value
        seconds = (after.since - before.since).total_seconds()
        fields = {"sidecar.phase_before": before.phase.value, "event.duration": round(seconds * 1e9)}
        log.info("phase: %s, after %.1f s of %s", after.phase, seconds, before.phase, extra={"fields": fields})
