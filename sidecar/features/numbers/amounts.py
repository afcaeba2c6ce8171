"""The content of devpi-server, its use, and the free space, at one instant."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sidecar.core.feature import Json
from sidecar.core.public import rfc3339
from sidecar.features.health.checks.disk import Space
from sidecar.storage.usage import Used


@dataclass(frozen=True, slots=True)
class Contents:
    """How much devpi-server holds, by the last count. None: the count failed."""

    users: int | None
    stages: int | None
    """Indexes to upload to."""
    mirrors: int | None
    projects: int | None
    """Projects of the stages: one that is in two stages counts twice."""
    at: datetime
    """When these numbers changed last."""


@dataclass(frozen=True, slots=True)
class Served:
    """The requests that devpi-server has answered since the container started."""

    requests: int
    per_second: float | None
    """The average of the last minute; None: not known yet."""
    uploads: int
    last_upload: datetime | None
    """None: no upload since the start."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers at one instant; None: not known."""

    contents: Contents | None = None
    served: Served | None = None
    used: Used | None = None
    """Disk space of the serverdir."""
    space: Space | None = None
    """Free space of its volume."""


def as_json(of: Numbers) -> Json:
    """Return the numbers as in `/status`."""
    return {
        "contents": None if of.contents is None else _contents(of.contents),
        "requests": None
        if of.served is None
        else {
            "total": of.served.requests,
            "per_second": None if of.served.per_second is None else round(of.served.per_second, 2),
            "uploads": of.served.uploads,
            "last_upload": rfc3339(of.served.last_upload),
        },
        "volume": None if of.space is None else {"free_bytes": of.space.free, "size_bytes": of.space.size},
        "serverdir": None if of.used is None else {"used_bytes": of.used.bytes, "files": of.used.files},
    }


def _contents(of: Contents) -> Json:
    return {
        "projects": of.projects,
        "users": of.users,
        "indexes": of.stages,
        "mirrors": of.mirrors,
        "since": rfc3339(of.at),
    }
