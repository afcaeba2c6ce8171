"""What an owner asks: how much there is, how much it is used, how much room is left. All of it from memory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sidecar.core.lifecycle import Contents
from sidecar.features.health.checks.disk import Space
from sidecar.storage.usage import Used
from sidecar.web.context import Context


@dataclass(frozen=True, slots=True)
class Served:
    """What devpi-server has answered since it started."""

    requests: int
    per_second: float | None
    """Requests in the last minute; None: not known yet."""
    uploads: int
    last_upload: datetime | None
    """None: none since the start."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers at one instant; None: not known."""

    contents: Contents | None = None
    served: Served | None = None
    used: Used | None = None
    """What the serverdir takes."""
    space: Space | None = None
    """Of the serverdir's volume."""


def gather(context: Context) -> Numbers:
    """What is known now; nothing of a devpi-server that does not run."""
    target, pace, usage = context.health.target(), context.pace, context.usage
    if target is None:
        return Numbers()
    return Numbers(
        contents=context.lifecycle.snapshot.contents,
        served=None if pace is None else Served(pace.requests(), pace.per_second(), pace.uploads(), pace.last_upload),
        used=None if usage is None else usage.last,
        space=target.space,
    )
