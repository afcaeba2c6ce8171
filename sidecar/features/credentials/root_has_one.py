"""`root-password`: not empty, and one that devpi-server can check."""

from __future__ import annotations

from sidecar.core.check import FAIL, PASS, WARN, Verdict
from sidecar.features.credentials.password_advice import ROTATE


def judge_root_password(state: str, allowed: bool, rotate: str | None = ROTATE) -> Verdict:
    """`root-password`: with an empty one, any client is root. `state`: as in `Listening`, `RootPasswordSeen`.

    An unknown state does not pass, except a replica's. `allowed`: the settings allow an empty one. `rotate`: how to set
    another; None: not possible now.
    """
    match state:
        case "set" | "unknown":
            return Verdict(PASS)
        case "unusable":
            return Verdict(
                FAIL,
                "devpi-server can't check root's password hash, so root can't log in",
                hint=rotate and f"{rotate} sets a new password",
            )
        case "unchecked":
            return Verdict(
                WARN if allowed else FAIL,
                "root's password can't be checked: argon2 can't run, for lack of memory or threads",
                hint="raise the limit of memory or of processes, and restart",
            )
        case "unseen":
            return Verdict(
                WARN if allowed else FAIL,
                "root's password can't be checked: devpi-server can't read its database",
                hint="see devpi-server's log",
            )
    if allowed:
        return Verdict(WARN, "root's password is empty, which SIDECAR_ALLOW_EMPTY_ROOT allows")
    return Verdict(
        FAIL,
        "root's password is empty",
        hint=rotate and f"run {rotate}, or set SIDECAR_ALLOW_EMPTY_ROOT=true to allow it",
    )
