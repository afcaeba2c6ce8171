"""Changing root's password in the running devpi-server, so that a crash at any step can be made good.

The record says that a change begins, and to which password, before devpi hears of it; it says that it ended
before anybody is told the password. What a crash leaves between the two, the next start ends
(`keeper.Credentials`): it renews the login secret unless `pending_keeps_logins`, sets `pending_rotation()`, and
then calls `recover_rotation`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from sidecar.core.disk_hints import hint_to_write
from sidecar.core.lifecycle import now
from sidecar.devpi.process import SetFailed
from sidecar.features.credentials import password_advice
from sidecar.features.credentials.login_secret import LoginSecret, generate_login_secret
from sidecar.features.credentials.refusals import CannotRotate, NotYet
from sidecar.features.credentials.root_password import RootPasswordFile
from sidecar.features.credentials.secrets import generate_password


class PasswordSetter(Protocol):
    """The running devpi-server."""

    async def set_root_password(self, password: str, login_secret: bytes | None) -> None:
        """Set root's password, and put `login_secret`, unless None, in the place of the one in use.

        Answers within a finite time. Raises `SetFailed`.
        """

    async def is_root_password(self, password: str) -> bool | None:
        """Whether it is root's password now; None: that can't be seen. Answers within a finite time."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """One change of root's password; nobody else may change the record meanwhile."""

    record: RootPasswordFile
    secret: LoginSecret | None
    """None: the operator's own --secretfile, which is not renewed here."""
    setter: PasswordSetter = field(repr=False)

    async def run(self, address: str, keep_logins: bool) -> str:
        """Set a new password and return it, to be told to `address`. Raises `NotYet`, `CannotRotate`."""
        if self.secret is None and not keep_logins:
            raise CannotRotate(
                "the login secret is the operator's own (--secretfile), and is not renewed here",
                f"{password_advice.KEEP_LOGINS} keeps them; to end them, replace that file and restart",
            )
        undecided = self.record.rotating  # an earlier one that devpi may have carried out
        password = generate_password()
        try:
            await asyncio.to_thread(self.record.begin_rotation, password, keep_logins, now())
        except OSError as error:
            raise CannotRotate(f"the change can't be recorded: {error.strerror}", hint_to_write(error)) from error
        try:
            await self._hand_over(password, keep_logins)
        except SetFailed as error:
            if error.maybe_done or undecided:
                raise NotYet(
                    f"which password devpi-server has is not known ({error.reason}): rotate again", 10
                ) from error
            await self._abandon()
            if error.retryable:
                raise NotYet(f"devpi-server could not change the password: {error.reason}", 10) from error
            raise CannotRotate(f"devpi-server did not take the password: {error.reason}", error.hint) from error
        try:
            await asyncio.to_thread(self.record.finish_rotation, address, now())
        except OSError as error:
            raise not_recorded("the new password", error) from error
        return password

    async def _hand_over(self, password: str, keep_logins: bool) -> None:
        """Have devpi take the password and a new login secret. Raises `SetFailed`.

        The secret reaches the disk after devpi has it: the other way round, a change that failed would end
        every login at the next restart. A crash in between is made good by the next start, which renews the
        secret again.
        """
        secret = None if keep_logins else self.secret
        renewed = None if secret is None else generate_login_secret()
        try:
            await self.setter.set_root_password(password, renewed)
        except OSError as error:
            raise SetFailed(f"no word from it: {error.strerror or 'timed out'}", maybe_done=True) from error
        if secret is not None:
            try:
                await asyncio.to_thread(secret.renew, renewed)
            except OSError as error:
                reason = f"the new login secret can't be kept: {error.strerror}"
                raise SetFailed(reason, maybe_done=True) from error

    async def _abandon(self) -> None:
        try:
            await asyncio.to_thread(self.record.abandon_rotation)
        except OSError as error:
            raise not_recorded("that nothing changed", error) from error


async def give_root_password(record: RootPasswordFile, setter: PasswordSetter, given: str | None) -> None:
    """Set root's password where devpi-server can't check its hash: `given`, or a generated one, claimable from now on.

    Nobody could log in as root, so nobody loses a password. Raises `SetFailed`, and OSError where it can't be recorded.
    """
    password = given or generate_password()
    await asyncio.to_thread(record.begin_rotation, password, True, now())
    try:
        await setter.set_root_password(password, None)
    except SetFailed as error:
        if not error.maybe_done:
            await asyncio.to_thread(record.abandon_rotation)
        raise
    if given is None:
        await asyncio.to_thread(record.recover_rotation)
    else:
        await asyncio.to_thread(record.write_provided)


def not_recorded(what: str, error: OSError) -> NotYet:
    """The disk did not take a change of the record, which therefore did not happen."""
    return NotYet(f"{what} can't be recorded: {error.strerror}; {hint_to_write(error)}", 30)
