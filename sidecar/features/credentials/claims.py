"""Claims and rotations of root's password, one at a time.

A password is durably recorded before it is returned. A caller that disconnects does not stop what has begun.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from sidecar.core.lifecycle import Lifecycle, Phase, now
from sidecar.features.credentials import password_advice
from sidecar.features.credentials.login_secret import LoginSecret
from sidecar.features.credentials.password_status import PasswordChange, RootPassword, RootPasswordStatus
from sidecar.features.credentials.refusals import (
    AlreadyClaimed,
    CannotRotate,
    Expired,
    NothingToClaim,
    NotRunning,
    NotYet,
    Superseded,
    not_running,
)
from sidecar.features.credentials.root_password import RootPasswordFile
from sidecar.features.credentials.rotation import PasswordSetter, Rotation, not_recorded

T = TypeVar("T")

log = logging.getLogger(__name__)

_NOTHING = {
    RootPassword.PROVIDED: "root's password was set by the operator (DEVPI_PASSWORD), none was generated",
    RootPassword.FROM_IMPORT: "root's password is the imported export's, none was generated",
    RootPassword.UNKNOWN: "the serverdir held data before this sidecar, which does not have root's password",
}
_OF_THE_PRIMARY = "this is a replica: its users and root's password are the primary's"


class Claims:
    """Claims, rotates and expires root's password. Lives on the event loop."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        record: RootPasswordFile,
        secret: LoginSecret | None,
        claim_ttl: float | None,
        *,
        changed: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`record` is loaded; `secret` None: the operator's own --secretfile.

        `claim_ttl`: seconds that an unclaimed password lasts; None: for ever. `changed()` is called when `status`
        changes. `clock` returns seconds that never go back.
        """
        self._lifecycle = lifecycle
        self._record = record
        self._secret = secret
        self._ttl = claim_ttl
        self._changed = changed
        self._clock = clock
        self._setter: PasswordSetter | None = None
        self._role = "standalone"
        self._lock = asyncio.Lock()
        self._rotation_runs = False
        self._rotations = 0
        self._expiry_failed = False
        self._tasks: set[asyncio.Task[object]] = set()
        self._published: RootPasswordStatus | None = None
        self.count_from_now()
        lifecycle.subscribe(lambda _before, _after: self.publish())

    def launching(self, secret: LoginSecret | None) -> None:
        """Use the secret that devpi-server is started with."""
        self._secret = secret

    def count_from_now(self) -> None:
        """Start the time of the recorded password, by a clock that is never set back."""
        # a password of the future was generated before the clock was set back: its time starts now
        self._attached = max(now(), self._record.generated or now()), self._clock()
        self.publish()

    def devpi_up(self, setter: PasswordSetter, role: str) -> None:
        """Use a running devpi-server of the role `standalone`, `primary` or `replica`."""
        self._setter, self._role = setter, role
        self.publish()

    def devpi_down(self) -> None:
        """Start nothing new: devpi-server is about to exit."""
        self._setter = None
        self.publish()

    def status(self) -> RootPasswordStatus:
        """Return what can be claimed, from memory."""
        return replace(self._record.status(self._ttl, self._at()), change=self._change())

    async def claim(self, address: str) -> str:
        """Return the generated password, once; `address` is the caller's.

        Raises `NotYet`, `NotRunning`, `NothingToClaim`, `AlreadyClaimed`, `Expired`, `Superseded`.
        """
        if self._rotation_runs:
            raise NotYet("root's password is being changed", 2)
        return await self._to_the_end(self._claim(address))

    async def rotate(self, address: str, *, keep_logins: bool = False) -> str:
        """Set a new password in the running devpi-server and return it; unless `keep_logins`, all logins end.

        Raises `NotYet`, also if it is unknown which password devpi-server has now, `NotRunning`, and `CannotRotate`.
        """
        if self._rotation_runs:
            raise NotYet("root's password is being changed by another request", 2)
        return await self._to_the_end(self._rotate(address, keep_logins, self._rotations))

    async def is_root_password(self, password: str) -> bool | None:
        """Whether `password` is root's in the running devpi-server; None: unknown now."""
        return await self._to_the_end(self._is_root_password(password))

    async def _is_root_password(self, password: str) -> bool | None:
        return None if self._setter is None else await self._setter.is_root_password(password)

    async def expire_if_due(self) -> None:
        """Delete an unclaimed password that has expired. Call this at every tick: it never queues."""
        record = self._record
        if (expires := record.expires(self._ttl)) is None or self._at() < expires:
            return
        if self._lock.locked():
            return  # a rotation may wait for devpi for long
        await self._to_the_end(self._expire(record))

    async def settle(self) -> None:
        """Wait until all that has begun is done; for shutdown, once no new requests arrive."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _to_the_end(self, work: Coroutine[None, None, T]) -> T:
        """Run `work` exclusively, and to its end even if the caller is cancelled after its start."""
        try:
            await self._lock.acquire()
        except BaseException:
            work.close()  # the caller was cancelled while it queued: never start
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
            task.exception()  # retrieved, or asyncio complains if the caller was cancelled
        self.publish()

    def publish(self) -> None:
        """Call `changed()` if the status has changed."""
        if (status := self.status()) != self._published:
            self._published = status
            self._changed()

    async def _claim(self, address: str) -> str:
        record = self._record
        if record.rotating:
            raise NotYet("a change of root's password is incomplete: rotate again", 10)
        status = record.status(self._ttl, self._at())
        if status.state is RootPassword.CLAIMED and status.changed:
            raise AlreadyClaimed(status.changed, status.claimed_from)
        if status.state is RootPassword.EXPIRED and status.changed:
            await self._expire(record)
            raise Expired(status.changed)
        if status.state is RootPassword.UNKNOWN and self._running() is None:
            raise self._not_running()
        if status.state is not RootPassword.CLAIMABLE:
            raise NothingToClaim(_OF_THE_PRIMARY if self._role == "replica" else _NOTHING[status.state])
        await self._still_holds(record)
        try:
            password = await asyncio.to_thread(record.claim, address, now())
        except OSError as error:
            raise not_recorded("the claim", error) from error
        log.info("root's password was claimed from %s", address)
        return password

    async def _still_holds(self, record: RootPasswordFile) -> None:
        """Raise `Superseded` if the recorded password is not root's any more, `NotYet` or `NotRunning` if unknown."""
        if (setter := self._running()) is None:
            raise self._not_running()
        holds = await setter.is_root_password(record.unclaimed or "")
        if holds is None:
            raise NotYet("devpi-server can't check whether the password is still root's: see /readyz", 5)
        if not holds:
            log.warning("root's password was changed by other means, so the generated one can't be claimed")
            raise Superseded

    def _change(self) -> PasswordChange:
        if self._running() is None:
            return PasswordChange.NOT_NOW
        if self._role == "replica":
            return PasswordChange.AT_PRIMARY
        return PasswordChange.KEEPING_LOGINS if self._secret is None else PasswordChange.HERE

    def _running(self) -> PasswordSetter | None:
        """Return devpi-server; None: it does not run, or is about to exit."""
        over = self._lifecycle.snapshot.phase in (Phase.FAILED, Phase.STOPPING)
        return None if over else self._setter

    def _not_running(self) -> NotYet | NotRunning:
        return not_running(self._lifecycle.snapshot.phase)

    def _at(self) -> datetime:
        """Return the time for expiry: that of the start plus what has passed since, even if the clock is set."""
        wall, began = self._attached
        return wall + timedelta(seconds=self._clock() - began)

    async def _expire(self, record: RootPasswordFile) -> None:
        at = now()
        if record.expires(self._ttl) is None:
            return  # claimed, rotated or expired while this waited
        try:
            await asyncio.to_thread(record.expire, at)
        except OSError as error:  # it counts as expired; the next tick retries
            if not self._expiry_failed:
                log.warning("the unclaimed root password expired, but can't be deleted: %s", error.strerror)
            self._expiry_failed = True
        else:
            hint = password_advice.rotate(self.status())
            log.warning("the unclaimed root password expired%s", f"; to set a new one: {hint}" if hint else "")

    async def _rotate(self, address: str, keep_logins: bool, seen: int) -> str:
        if seen != self._rotations:  # the other caller must be able to use the password it gets
            raise NotYet("root's password was just changed by another request", 2)
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
        """Return a rotation. Raises `NotYet`, `NotRunning`, `CannotRotate`."""
        if self._role == "replica":
            raise CannotRotate("this is a replica, the primary owns the users", password_advice.AT_PRIMARY)
        if (setter := self._running()) is None:
            raise self._not_running()
        return Rotation(self._record, self._secret, setter)
