"""The probes of one devpi-server and what they found; a new child gets a new `Target`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sidecar.core.check import FAIL, PASS, PENDING, WARN, Verdict
from sidecar.core.settings import MonitorSettings
from sidecar.devpi.client import BadAnswer, DevpiClient, DevpiError, Refused, TimedOut
from sidecar.devpi.protocol import PrimaryAnswered
from sidecar.devpi.server_status import ServerStatus
from sidecar.features.health.checks.disk import Space
from sidecar.features.health.checks.events import judge_events
from sidecar.features.health.checks.http import LAUNCHING, HttpJudge
from sidecar.features.health.checks.lock_held import judge_lock
from sidecar.features.health.checks.replication import ReplicationJudge
from sidecar.features.health.volume import Volume

Verdicts = Mapping[str, Verdict]
"""Verdicts by the name of the check."""

_LONGEST_PAUSE = 10.0
"""Maximum seconds between probes that get errors: each error may be a traceback in devpi-server's log."""
_NO_STATUS = "devpi-server does not report its status"
_SEE_LOG = "see devpi-server's log"


@dataclass(frozen=True, eq=False)
class Serving:
    """The devpi-server to probe."""

    pid: int
    client: DevpiClient
    serverdir: Path
    uuid: str | None
    """Its X-Devpi-Uuid; None: unknown, any is accepted."""
    role: str
    """`standalone`, `primary` or `replica`."""
    lock_lost: Callable[[], str | None]
    """Return why the serverdir's lock is no longer held; None: it is held. Called in a thread."""
    primary: Callable[[], PrimaryAnswered] = PrimaryAnswered
    """Return the primary's last answer to this replica."""


class Target:
    """Probes one devpi-server, and keeps the results."""

    def __init__(self, serving: Serving, settings: MonitorSettings, clock: Callable[[], float]) -> None:
        self.serving = serving
        self.replica = serving.role.lower() == "replica"
        self.began = clock()
        self.answers = HttpJudge(settings.dead_after, self.began)
        self._settings = settings
        self._clock = clock
        self._replication = ReplicationJudge()
        self.status: ServerStatus | None = None
        """Its last `+status`."""
        self.status_at: float | None = None
        """The time of `status`, in seconds since the epoch."""
        self.space: Space | None = None
        """Space on its volume, by the last probe."""
        self._volume: Volume | None = None
        self._bad = {"http": 0, "status": 0}
        """Consecutive errors, by kind of probe."""
        self._no_status: str | None = None
        """Why the last probe got no `+status`; None: it got one."""

    def alive(self) -> bool:
        """Whether its process exists."""
        with contextlib.suppress(PermissionError):
            try:
                os.kill(self.serving.pid, 0)
            except ProcessLookupError:
                return False
        return True

    def backed_off(self, kind: str, usual: float) -> float:
        """Return the seconds until the next probe of this kind: `usual`, more after errors."""
        steps = max(0, self._bad.get(kind, 0) - 1)  # after the first error, probe again soon
        return max(usual, min(_LONGEST_PAUSE, usual * 2.0 ** min(steps, 30)))

    async def probe_http(self) -> Verdicts:
        """`http`: request `+api`."""
        try:
            answer = await self.serving.client.api()
        except DevpiError as error:
            wrong = isinstance(error, BadAnswer) and not error.busy
            self._bad["http"] = self._bad["http"] + 1 if wrong else 0
            return {"http": self._judge_error(error)}
        self._bad["http"] = 0
        if self.serving.uuid is not None and answer.uuid != self.serving.uuid:
            return {"http": self.answers.failed("another devpi-server answers on its port")}
        return {"http": self.answers.answered(answer.seconds, self._clock())}

    def _judge_error(self, error: DevpiError) -> Verdict:
        if isinstance(error, TimedOut):
            return self.answers.silent("no answer", self._clock())
        if isinstance(error, BadAnswer) and error.busy:
            return self.answers.silent("only 503 with Retry-After", self._clock())
        if isinstance(error, Refused) and self.answers.answered_at is None:
            return self.answers.silent("devpi-server has not listened", self._clock())
        return self.answers.failed(error.reason)

    async def probe_volume(self) -> Verdicts:
        """`write` and `disk`."""
        if self._volume is None:
            self._volume = await asyncio.to_thread(Volume.of, self.serving.serverdir)
        seen = await asyncio.to_thread(self._volume.look, self._settings.disk_warn_bytes)
        self.space = seen.space
        return {"write": seen.write, "disk": seen.disk}

    async def probe_lock(self) -> Verdicts:
        """`lock`."""
        return {"lock": judge_lock(await asyncio.to_thread(self.serving.lock_lost))}

    async def probe_status(self) -> Verdicts:
        """`events` and `replication`; without an answer, the latter stays that of the last answer."""
        try:
            self.status = await self.serving.client.status()
        except DevpiError as error:
            self._bad["status"] += 1
            self._no_status = error.reason
            return {"events": Verdict(WARN, f"{_NO_STATUS}: {error.reason}", hint=_SEE_LOG)}
        self._bad["status"], self._no_status = 0, None
        self.status_at = time.time()
        return {"events": judge_events(self.status, self.status_at), "replication": self.replication()}

    def replication(self) -> Verdict:
        """`replication`, by the last `+status` and its age."""
        if not self.replica:
            replicas = self.status.polling_replicas if self.status else None
            return Verdict(PASS, value=replicas, unit=None if replicas is None else "replicas")
        if self.status is None or self.status_at is None:
            if self._bad["status"] > 1:
                return Verdict(FAIL, f"{_NO_STATUS}: {self._no_status}", hint=_SEE_LOG)
            return Verdict(PENDING, f"{LAUNCHING}the replica's status is not known yet")
        age = time.time() - self.status_at
        if age >= max(ReplicationJudge.FRESH, 3 * self._settings.interval):  # its news of the primary is as old
            why = self._no_status or "it was not requested, because +api has no valid answer"
            return Verdict(FAIL, f"{_NO_STATUS} for {age:.0f} s: {why}", hint=_SEE_LOG)
        return self._replication.judge(self.status, time.time(), self.serving.primary())
