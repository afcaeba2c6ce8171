"""What can be said about passwords without saying them."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime


class RootPassword(enum.StrEnum):
    """What can be said about root's password without saying it."""

    CLAIMABLE = "claimable"
    CLAIMED = "claimed"
    EXPIRED = "expired"
    PROVIDED = "provided"
    FROM_IMPORT = "from_import"
    UNKNOWN = "unknown"


class PasswordChange(enum.StrEnum):
    """How root's password can be changed, as far as the running devpi-server decides it."""

    NOT_NOW = "not_now"
    """devpi-server does not run."""
    HERE = "here"
    KEEPING_LOGINS = "keeping_logins"
    """Here, but the login secret is the operator's own, so that logins can't be ended."""
    AT_PRIMARY = "at_primary"
    """This is a replica."""


@dataclass(frozen=True, slots=True)
class RootPasswordStatus:
    """The state of the generated root password; never the password."""

    state: RootPassword = RootPassword.UNKNOWN
    expires: datetime | None = None
    changed: datetime | None = None
    """When it was claimed, or when it expired."""
    claimed_from: str | None = None
    change: PasswordChange = PasswordChange.NOT_NOW
    """See `password_advice`, which words it."""
    generated: datetime | None = None
    """When it was generated, claimed or not."""

    @property
    def claimed_at(self) -> datetime | None:
        """When it was claimed; None: it wasn't."""
        return self.changed if self.state is RootPassword.CLAIMED else None

    @property
    def expired_at(self) -> datetime | None:
        """When it was thrown away, because nobody had claimed it; None: it wasn't."""
        return self.changed if self.state is RootPassword.EXPIRED else None


@dataclass(frozen=True, slots=True)
class UnusablePasswords:
    """Users, but for root, whose password hash this devpi-server can't check: they need a new password."""

    total: int
    users: tuple[str, ...] = ()
    """The first of them, by name; a name is whatever devpi-server took for one."""
