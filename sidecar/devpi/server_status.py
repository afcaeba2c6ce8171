"""The content of devpi-server's `+status`. None of it is trusted: plugins and replicas contribute to it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from sidecar.devpi.protocol import UNREPLICATED

REPLICAS_LIMIT = 100
"""Maximum replicas kept; others are only counted."""
METRICS_LIMIT = 1000
"""Maximum entries read of devpi-server's own metrics."""
_PATH_LIMIT = 500
_LOST = "Not Found"
"""devpi's message for a file that its primary has lost."""
_FAR = 4e9
"""Seconds since the epoch that no correct clock shows."""
_UUID = re.compile(r"[0-9a-f-]{8,36}")


@dataclass(frozen=True, slots=True)
class Metric:
    """One of devpi-server's own metrics."""

    name: str
    kind: str
    """`counter` or `gauge`."""
    value: float


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica, as its primary sees it."""

    address: str | None
    serial: int | None
    """It has all changes up to this one."""
    asked_at: float | None
    """When it asked last; seconds since the epoch."""
    uuid: str | None
    """None: its name for itself is no UUID."""

    @property
    def asked(self) -> datetime | None:
        """When it asked last, to the second; None: unknown, or implausible."""
        plausible = self.asked_at is not None and 0 <= self.asked_at < _FAR
        return datetime.fromtimestamp(int(self.asked_at or 0), UTC) if plausible else None


@dataclass(frozen=True, slots=True)
class Unreplicated:
    """A file that a replica could not get."""

    path: str
    """devpi's path `USER/INDEX/+f/…`: below `+files` on the volume, and below the primary's URL."""
    lost: bool
    """The primary does not have it. False: it could not be asked, or its answer was cut."""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """The content of `+status`. None: absent, or of the wrong type. Times: seconds since the epoch."""

    version: str | None = None
    role: str | None = None
    """`MASTER` or `REPLICA`."""
    serial: int | None = None
    event_serial: int | None = None
    event_serial_timestamp: float | None = None
    event_serial_in_sync_at: float | None = None
    last_commit_timestamp: float | None = None
    primary_serial: int | None = None
    update_from_primary_at: float | None = None
    replica_in_sync_at: float | None = None
    replica_init_queue_finished_at: float | None = None
    replication_errors: int | None = None
    """How many files could not be fetched from the primary; at most `UNREPLICATED` are listed."""
    unreplicated: tuple[Unreplicated, ...] = ()
    """The first of them."""
    polling_replicas: int | None = None
    """How many replicas have asked this primary."""
    replicas: tuple[Replica, ...] = ()
    """The well-formed ones, at most `REPLICAS_LIMIT`: those that asked last."""
    metrics: tuple[Metric, ...] = ()
    """The well-formed ones of the first `METRICS_LIMIT`."""

    @property
    def is_replica(self) -> bool:
        """Whether it has a primary."""
        return self.primary_serial is not None or (self.role or "").upper() == "REPLICA"

    @property
    def behind(self) -> int | None:
        """Serials that this replica is behind its primary."""
        return None if self.primary_serial is None else self._until(self.primary_serial, self.serial)

    def lag(self, replica: Replica) -> int | None:
        """Serials that a replica is behind this primary."""
        return None if self.serial is None else self._until(self.serial, replica.serial)

    @staticmethod
    def _until(ahead: int, serial: int | None) -> int | None:
        return None if serial is None else max(0, ahead - serial)

    @property
    def events_behind(self) -> int | None:
        """Serials whose events (replaced files, plugins' hooks) are not processed yet."""
        if self.serial is None or self.event_serial is None:
            return None
        return max(0, self.serial - self.event_serial)

    @property
    def search_index_queue(self) -> int | None:
        """Projects that devpi-web has not indexed yet; None without devpi-web."""
        return next((int(m.value) for m in self.metrics if m.name == "devpi_web_whoosh_index_queue_size"), None)


def parse(result: dict[str, object]) -> ServerStatus:
    """Parse the `result` of a `+status` answer. Values of the wrong type are left out."""
    versions = result.get("versioninfo")
    return ServerStatus(
        version=_text(versions.get("devpi-server")) if isinstance(versions, dict) else None,
        role=_text(result.get("role")),
        serial=_integer(result.get("serial")),
        event_serial=_integer(result.get("event-serial")),
        event_serial_timestamp=_number(result.get("event-serial-timestamp")),
        event_serial_in_sync_at=_number(result.get("event-serial-in-sync-at")),
        last_commit_timestamp=_number(result.get("last-commit-timestamp")),
        primary_serial=_integer(result.get("primary-serial")),
        update_from_primary_at=_number(result.get("update-from-primary-at")),
        replica_in_sync_at=_number(result.get("replica-in-sync-at")),
        replica_init_queue_finished_at=_number(result.get("replica-init-queue-finished-at")),
        replication_errors=_size(result.get("replication-errors")),
        unreplicated=_unreplicated(result.get("replication-errors")),
        polling_replicas=_size(result.get("polling_replicas")),
        replicas=_replicas(result.get("polling_replicas")),
        metrics=_metrics(result.get("metrics")),
    )


def _metrics(value: object) -> tuple[Metric, ...]:
    """Return the well-formed ones: a plugin may return anything, and None stands for "not known yet"."""
    if not isinstance(value, list):
        return ()
    metrics = []
    for entry in value[:METRICS_LIMIT]:
        if isinstance(entry, list) and len(entry) == 3:
            name, kind, number = _text(entry[0]), _text(entry[1]), _number(entry[2])
            if name is not None and kind is not None and number is not None:
                metrics.append(Metric(name, kind, number))
    return tuple(metrics)


def _replicas(value: object) -> tuple[Replica, ...]:
    """Return the last ones: any client with the secret may call itself a replica, so there may be many."""
    if not isinstance(value, dict):
        return ()
    found = [(_number(each.get("last-request")), uuid, each) for uuid, each in value.items() if isinstance(each, dict)]
    return tuple(
        Replica(
            _text(each.get("remote-ip")),
            _integer(each.get("serial")),
            asked_at,
            uuid if _UUID.fullmatch(uuid) else None,
        )
        for asked_at, uuid, each in sorted(found, key=lambda each: -(each[0] or 0))[:REPLICAS_LIMIT]
    )


def _unreplicated(value: object) -> tuple[Unreplicated, ...]:
    if not isinstance(value, dict):
        return ()
    return tuple(
        Unreplicated(path[:_PATH_LIMIT], isinstance(said, dict) and said.get("message") == _LOST)
        for path, said in sorted(value.items())[:UNREPLICATED]
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _integer(value: object) -> int | None:
    """Return an integer that fits into 64 bits; JSON's have no bound."""
    return value if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63 else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _size(value: object) -> int | None:
    return len(value) if isinstance(value, dict | list) else None
