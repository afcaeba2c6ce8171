"""What to do, here and now. About passwords this decides it, by role, phase, and whose login secret it is.

The log, `/status`, the commands, the page and the errors all take their words from here. What is advised in backticks
succeeds where it is advised.
"""

from __future__ import annotations

from sidecar.core.lifecycle import PasswordChange, Phase, RootPassword, Snapshot

ROTATE = "`sidecar rotate`"
KEEP_LOGINS = "`sidecar rotate --keep-logins` or POST /bootstrap/rotate?keep_logins=true"
AT_PRIMARY = "rotate at the primary"
RESTART = "then restart the container"
"""After what a failed import has for `hint`."""
START_EMPTY = (
    "to start empty instead: take the archives out of DEVPI_INIT_DIR, and restart the container; if an archive itself"
    " is mounted, replace the container by one without that mount, for Docker can't start this one without the file"
)

_SERVING = (Phase.LAUNCHING, Phase.READY)
_COMMANDS = {PasswordChange.HERE: ROTATE, PasswordChange.KEEPING_LOGINS: "`sidecar rotate --keep-logins`"}
_WITH_ROUTES = {
    PasswordChange.HERE: f"{ROTATE} or POST /bootstrap/rotate",
    PasswordChange.KEEPING_LOGINS: KEEP_LOGINS,
}


def claimable(snapshot: Snapshot) -> bool:
    """Whether root's password can be claimed here and now."""
    return snapshot.root_password.state is RootPassword.CLAIMABLE and _change(snapshot) in _COMMANDS


def rotate(snapshot: Snapshot, *, route: bool = False) -> str | None:
    """How to set a new root password, `route`: over HTTP too; None: not possible at this moment."""
    change = _change(snapshot)
    if change is PasswordChange.AT_PRIMARY:
        return AT_PRIMARY
    return (_WITH_ROUTES if route else _COMMANDS).get(change)


def root_password(snapshot: Snapshot) -> str | None:
    """What can be done about root's password; None: nothing at this moment."""
    change, state = _change(snapshot), snapshot.root_password.state
    if change is PasswordChange.AT_PRIMARY:
        return f"it is the primary's: {AT_PRIMARY}"
    if (command := _COMMANDS.get(change)) is None:
        return None
    if state is RootPassword.CLAIMABLE:
        return "`sidecar claim` prints it, once"
    if state in (RootPassword.EXPIRED, RootPassword.UNKNOWN):
        return f"{command} sets a new one"
    return f"if it is lost: {command}"


def user_password(snapshot: Snapshot) -> str | None:
    """How to give a user a new password; None: not possible at this moment."""
    return "as root: `devpi passwd NAME`" if snapshot.phase in _SERVING else None


def _change(snapshot: Snapshot) -> PasswordChange:
    return snapshot.root_password.change if snapshot.phase in _SERVING else PasswordChange.NOT_NOW
