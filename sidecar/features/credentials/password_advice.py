"""Advice on passwords, by role, phase, and whose login secret it is.

The log, `/status`, the commands, the page and the errors use these texts. A command in backticks succeeds when it is
advised.
"""

from __future__ import annotations

from sidecar.features.credentials.password_status import PasswordChange, RootPassword, RootPasswordStatus

ROTATE = "`sidecar rotate`"
KEEP_LOGINS = "`sidecar rotate --keep-logins` or POST /bootstrap/rotate?keep_logins=true"
AT_PRIMARY = "rotate at the primary"

_COMMANDS = {PasswordChange.HERE: ROTATE, PasswordChange.KEEPING_LOGINS: "`sidecar rotate --keep-logins`"}
_WITH_ROUTES = {
    PasswordChange.HERE: f"{ROTATE} or POST /bootstrap/rotate",
    PasswordChange.KEEPING_LOGINS: KEEP_LOGINS,
}


def claimable(root: RootPasswordStatus) -> bool:
    """Whether root's password can be claimed here now."""
    return root.state is RootPassword.CLAIMABLE and root.change in _COMMANDS


def rotate(root: RootPasswordStatus, *, route: bool = False) -> str | None:
    """Return how to set a new root password, with `route` also over HTTP; None: not possible now."""
    if root.change is PasswordChange.AT_PRIMARY:
        return AT_PRIMARY
    return (_WITH_ROUTES if route else _COMMANDS).get(root.change)


def root_password(root: RootPasswordStatus) -> str | None:
    """Return what can be done about root's password; None: nothing now."""
    if root.change is PasswordChange.AT_PRIMARY:
        return f"it is the primary's: {AT_PRIMARY}"
    if (command := _COMMANDS.get(root.change)) is None:
        return None
    if root.state is RootPassword.CLAIMABLE:
        return "`sidecar claim` prints it, once"
    if root.state in (RootPassword.EXPIRED, RootPassword.UNKNOWN):
        return f"{command} sets a new one"
    return f"if it is lost, run {command}"
