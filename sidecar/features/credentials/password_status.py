"""The public state of passwords, never the passwords."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime


class RootPassword(enum.StrEnum):
    """The state of root's password."""

    CLAIMABLE = "claimable"
    CLAIMED = "claimed"
    EXPIRED = "expired"
    PROVIDED = "provided"
    FROM_IMPORT = "from_import"
    UNKNOWN = "unknown"


class PasswordChange(enum.StrEnum):
    """How root's password can be changed in the running devpi-server."""

    NOT_NOW = "not_now"
    """devpi-server does not run."""
    HERE = "here"
    KEEPING_LOGINS = "keeping_logins"
    """Here, but logins can't be ended, because the login secret is the operator's own."""
    AT_PRIMARY = "at_primary"
    """This is a replica."""


@dataclass(frozen=True, slots=True)
class RootPasswordStatus:
    """The state of the generated root password; never the password."""

    state: RootPassword = RootPassword.UNKNOWN
    expires: datetime | None = None
    changed: datetime | None = None
    """When it was claimed, or expired."""
    claimed_from: str | None = None
    change: PasswordChange = PasswordChange.NOT_NOW
    """`password_advice` has its texts."""
    generated: datetime | None = None
    """When it was generated, claimed or not."""

    @property
    def claimed_at(self) -> datetime | None:
        """When it was claimed; None: it wasn't."""
        return self.changed if self.state is RootPassword.CLAIMED else None

    @property
    def expired_at(self) -> datetime | None:
        """When it expired unclaimed; None: it didn't."""
        return self.changed if self.state is RootPassword.EXPIRED else None


@dataclass(frozen=True, slots=True)
class UnusablePasswords:
    """Users except root whose password hash devpi-server can't check: they need a new password."""

    total: int
    users: tuple[str, ...] = ()
    """The first of them, by name; a name may have any characters."""
