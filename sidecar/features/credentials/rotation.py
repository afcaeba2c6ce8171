"""A change of root's password in the running devpi-server that survives a crash at any step.

The record has the new password before devpi gets it, and has the change as finished before the password is returned.
After a crash between the two, the next start finishes the change (`keeper.Credentials`): it renews the login secret
unless `pending_keeps_logins`, sets `pending_rotation()`, then calls `recover_rotation`.
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
        """Set root's password, and replace the login secret by `login_secret` unless None.

        Returns within a finite time. Raises `SetFailed`.
        """

    async def is_root_password(self, password: str) -> bool | None:
        """Whether it is root's password now; None: unknown. Returns within a finite time."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """One change of root's password; no other code may change the record meanwhile."""

    record: RootPasswordFile
    secret: LoginSecret | None
    """None: the operator's own --secretfile, which can't be renewed here."""
    setter: PasswordSetter = field(repr=False)

    async def run(self, address: str, keep_logins: bool) -> str:
        """Set a new password and return it, for `address`. Raises `NotYet`, `CannotRotate`."""
        if self.secret is None and not keep_logins:
            raise CannotRotate(
                "can't end the logins, because the login secret is the operator's own (--secretfile)",
                f"use {password_advice.KEEP_LOGINS} to keep them; to end them, replace that file and restart",
            )
        undecided = self.record.rotating  # devpi may have carried out an earlier one
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
                    f"it is unknown which password devpi-server has ({error.reason}): rotate again", 10
                ) from error
            await self._abandon()
            if error.retryable:
                raise NotYet(f"devpi-server could not change the password: {error.reason}", 10) from error
            raise CannotRotate(f"devpi-server rejected the password: {error.reason}", error.hint) from error
        try:
            await asyncio.to_thread(self.record.finish_rotation, address, now())
        except OSError as error:
            raise not_recorded("the new password", error) from error
        return password

    async def _hand_over(self, password: str, keep_logins: bool) -> None:
        """Set the password and a new login secret in devpi. Raises `SetFailed`.

        The secret is stored after devpi has it: otherwise a failed change would end all logins at the next restart.
        After a crash in between, the next start renews the secret again.
        """
        secret = None if keep_logins else self.secret
        renewed = None if secret is None else generate_login_secret()
        try:
            await self.setter.set_root_password(password, renewed)
        except OSError as error:
            raise SetFailed(f"no answer: {error.strerror or 'timed out'}", maybe_done=True) from error
        if secret is not None:
            try:
                await asyncio.to_thread(secret.renew, renewed)
            except OSError as error:
                reason = f"the new login secret can't be stored: {error.strerror}"
                raise SetFailed(reason, maybe_done=True) from error

    async def _abandon(self) -> None:
        try:
            await asyncio.to_thread(self.record.abandon_rotation)
        except OSError as error:
            raise not_recorded("that nothing changed", error) from error


async def give_root_password(record: RootPasswordFile, setter: PasswordSetter, given: str | None) -> None:
    """Set root's password, whose hash devpi-server can't check: to `given`, or to a generated, claimable one.

    Root could not log in, so no password is lost. Raises `SetFailed`, and OSError if it can't be recorded.
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
    """Return the exception for a change of the record that could not be written, and so did not happen."""
    return NotYet(f"{what} can't be recorded: {error.strerror}; {hint_to_write(error)}", 30)
