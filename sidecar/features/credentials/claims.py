"""Claiming and rotating root's password, one at a time, whatever the callers do.

What is told to a caller was durable before. A caller that goes away changes nothing: what has begun ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar

from sidecar.core import advice
from sidecar.core.lifecycle import Lifecycle, PasswordChange, Phase, RootPassword, now
from sidecar.features.credentials.login_secret import LoginSecret
from sidecar.features.credentials.refusals import (
    AlreadyClaimed,
    CannotRotate,
    Expired,
    NothingToClaim,
    NotRunning,
    NotYet,
    Superseded,
)
from sidecar.features.credentials.root_password import RootPasswordFile
from sidecar.features.credentials.rotation import PasswordSetter, Rotation, not_recorded
from sidecar.features.credentials.secrets import AdminToken

T = TypeVar("T")

log = logging.getLogger(__name__)

_NOTHING = {
    RootPassword.PROVIDED: "root's password was given by the operator (DEVPI_PASSWORD), none was generated",
    RootPassword.FROM_IMPORT: "root's password is the one of the imported export, none was generated",
    RootPassword.UNKNOWN: "the serverdir held data before this sidecar: root's password is not known here",
}
_OF_THE_PRIMARY = "this is a replica: its users, and root's password, are the primary's"


@dataclass(frozen=True, slots=True)
class BootstrapStatus:
    """What `GET /bootstrap` tells; never the password."""

    state: RootPassword
    generated: datetime | None = None
    expires: datetime | None = None
    claimed_at: datetime | None = None
    claimed_from: str | None = None


class Bootstrap:
    """The one that may claim, rotate and expire root's password. Lives on the event loop."""

    def __init__(
        self, lifecycle: Lifecycle, claim_ttl: float | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`claim_ttl`: seconds that an unclaimed password lasts; None: for ever.

        `clock` gives seconds that never go back.
        """
        self._lifecycle = lifecycle
        self._clock = clock
        self._attached = now(), clock()
        self._token: AdminToken | None = None
        self._ttl = claim_ttl
        self._record: RootPasswordFile | None = None
        self._secret: LoginSecret | None = None
        self._setter: PasswordSetter | None = None
        self._role = "standalone"
        self._lock = asyncio.Lock()
        self._rotation_runs = False
        self._rotations = 0
        self._expiry_failed = False
        self._tasks: set[asyncio.Task[object]] = set()

    def set_token(self, token: AdminToken) -> None:
        """The admin token is known, from the settings or the serverdir."""
        self._token = token

    def attach(self, record: RootPasswordFile, secret: LoginSecret | None) -> None:
        """The serverdir is there. `record` is loaded; `secret` None: the operator's own --secretfile."""
        self._record, self._secret = record, secret
        # a password of the future was generated before the clock was set back: its time begins anew
        self._attached = max(now(), record.generated or now()), self._clock()
        self.publish()

    def devpi_runs(self, setter: PasswordSetter | None, role: str) -> None:
        """devpi-server runs, as `role` (`standalone`, `primary`, `replica`); `setter` None: not any more."""
        self._setter, self._role = setter, role
        self.publish()

    def token_ok(self, token: bytes) -> bool:
        """Whether `token` is the admin token, in constant time. Raises `NotYet` before `set_token`."""
        if self._token is None:
            raise NotYet("the serverdir, and with it the admin token, is not open yet", 2)
        return self._token.matches(token)

    def status(self) -> BootstrapStatus:
        """What there is to claim, from memory."""
        if self._record is None:
            return BootstrapStatus(RootPassword.UNKNOWN)
        told = self._record.status(self._ttl, self._at())
        return BootstrapStatus(
            told.state,
            self._record.generated,
            told.expires,
            told.changed if told.state is RootPassword.CLAIMED else None,
            told.claimed_from,
        )

    async def claim(self, address: str) -> str:
        """The generated password, once; the caller is at `address`.

        Raises `NotYet`, `NotRunning`, `NothingToClaim`, `AlreadyClaimed`, `Expired`, `Superseded`.
        """
        if self._rotation_runs:
            raise NotYet("root's password is being changed", 2)
        return await self._to_the_end(self._claim(address))

    async def rotate(self, address: str, *, keep_logins: bool = False) -> str:
        """Set a new password in the running devpi and return it; unless `keep_logins`, every login ends.

        Raises `NotYet`, also where nobody can say which password devpi has now, `NotRunning`, and `CannotRotate`.
        """
        if self._rotation_runs:
            raise NotYet("root's password is being changed by somebody else", 2)
        return await self._to_the_end(self._rotate(address, keep_logins, self._rotations))

    async def is_root_password(self, password: str) -> bool | None:
        """Whether `password` is root's in the running devpi-server; None: nobody can say so now."""
        return await self._to_the_end(self._is_root_password(password))

    async def _is_root_password(self, password: str) -> bool | None:
        return None if self._setter is None else await self._setter.is_root_password(password)

    async def expire_if_due(self) -> None:
        """Throw an unclaimed password away when its time has come. Call it at every tick: it never queues."""
        record = self._record
        if record is None or (expires := record.expires(self._ttl)) is None or self._at() < expires:
            return
        if self._lock.locked():
            return  # for a rotation that waits for devpi; a tick that comes late would look like a dead sidecar
        await self._to_the_end(self._expire(record))

    async def settle(self) -> None:
        """Wait until what has begun is done; for the way down, once no request comes any more."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _to_the_end(self, work: Coroutine[None, None, T]) -> T:
        """Run `work` alone, and on to its end even where the caller is cancelled after its begin."""
        try:
            await self._lock.acquire()
        except BaseException:
            work.close()  # a caller that left while it queued: not begun at all
            raise
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        await asyncio.wait({task})  # unlike awaiting the task, this does not cancel it
        return task.result()

    def _ended(self, task: asyncio.Task[T]) -> None:
        self._tasks.discard(task)
        self._lock.release()
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio doesn't complain where the caller is gone
        self.publish()

    def publish(self) -> None:
        """Tell the rest of the sidecar, if anything changed."""
        if self._record is None:
            return
        told = replace(self._record.status(self._ttl, self._at()), change=self._change())
        if told != self._lifecycle.snapshot.root_password:
            self._lifecycle.update(root_password=told)

    async def _claim(self, address: str) -> str:
        record = self._record
        if record is None:
            raise self._not_running()
        if record.rotating:
            raise NotYet("a change of root's password did not come to its end: rotate again", 10)
        at = self._at()
        told = record.status(self._ttl, at)
        if told.state is RootPassword.CLAIMED and told.changed:
            raise AlreadyClaimed(told.changed, told.claimed_from)
        if told.state is RootPassword.EXPIRED and told.changed:
            await self._expire(record)
            raise Expired(told.changed)
        if told.state is RootPassword.UNKNOWN and self._running() is None:
            raise self._not_running()
        if told.state is not RootPassword.CLAIMABLE:
            raise NothingToClaim(_OF_THE_PRIMARY if self._role == "replica" else _NOTHING[told.state])
        await self._still_holds(record)
        try:
            password = await asyncio.to_thread(record.claim, address, now(), None)
        except OSError as error:
            raise not_recorded("the claim", error) from error
        log.info("root's password was claimed from %s", address)
        return password

    async def _still_holds(self, record: RootPasswordFile) -> None:
        """Return if the recorded password is still root's.

        Raises `Superseded`; `NotYet` and `NotRunning` where nobody knows.
        """
        if (setter := self._running()) is None:
            raise self._not_running()
        holds = await setter.is_root_password(record.unclaimed or "")
        if holds is None:
            raise NotYet("devpi-server does not say whether the password is still root's: see /readyz", 5)
        if not holds:
            log.warning("root's password was changed in another way, so the generated one can't be claimed")
            raise Superseded

    def _change(self) -> PasswordChange:
        if self._setter is None:
            return PasswordChange.NOT_NOW
        if self._role == "replica":
            return PasswordChange.AT_PRIMARY
        return PasswordChange.KEEPING_LOGINS if self._secret is None else PasswordChange.HERE

    def _running(self) -> PasswordSetter | None:
        """devpi-server; None: it does not run, or has ended."""
        over = self._lifecycle.snapshot.phase in (Phase.FAILED, Phase.STOPPING)
        return None if over else self._setter

    def _not_running(self) -> NotYet | NotRunning:
        phase = self._lifecycle.snapshot.phase
        if phase is Phase.FAILED:
            return NotRunning("it failed: see /status, fix that, and restart")
        if phase is Phase.STOPPING:
            return NotRunning("it is being stopped")
        return NotYet(f"devpi-server does not run yet ({phase})", 2)

    def _at(self) -> datetime:
        """The time by which a password expires: that of the start, and what has gone by since, however clocks jump."""
        wall, began = self._attached
        return wall + timedelta(seconds=self._clock() - began)

    async def _expire(self, record: RootPasswordFile) -> None:
        at = now()
        if record.expires(self._ttl) is None:
            return  # another one was here while this waited
        try:
            await asyncio.to_thread(record.expire, at)
        except OSError as error:  # it counts as expired all the same; the next tick tries again
            if not self._expiry_failed:
                log.warning("the unclaimed root password expired, but can't be removed: %s", error.strerror)
            self._expiry_failed = True
        else:
            hint = advice.rotate(self._lifecycle.snapshot)
            log.warning("the unclaimed root password expired%s", f"; to set a new one: {hint}" if hint else "")

    async def _rotate(self, address: str, keep_logins: bool, seen: int) -> str:
        if seen != self._rotations:  # the other one's answer must not be void before it is read
            raise NotYet("root's password was changed by somebody else just now", 2)
        rotation = self._rotation()
        self._rotation_runs = True
        try:
            password = await rotation.run(address, keep_logins)
        finally:
            self._rotation_runs = False
        self._rotations += 1
        log.info("root's password was rotated from %s, logins %s", address, "kept" if keep_logins else "ended")
        return password

    def _rotation(self) -> Rotation:
        """Raises `NotYet`, `NotRunning`, `CannotRotate`."""
        if self._record is None:
            raise self._not_running()
        if self._role == "replica":
            raise CannotRotate("this is a replica, the primary owns the users", advice.AT_PRIMARY)
        if (setter := self._running()) is None:
            raise self._not_running()
        return Rotation(self._record, self._secret, setter)
