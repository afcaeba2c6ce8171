"""Exit codes, and the exceptions that carry a reason and a hint."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """The container's exit codes. Others are devpi-server's own code, or 128+n if signal n ended it."""

    STOPPED = 0
    """A requested stop completed cleanly."""
    SETTINGS = 2
    """A setting or a devpi-server flag is wrong; nothing on disk was touched."""
    IMPORT_FAILED = 3
    """The import failed, and SIDECAR_ON_IMPORT_FAILURE is `exit`."""
    DAMAGED = 65
    """The serverdir holds data that must neither be served nor overwritten (sysexits' EX_DATAERR)."""
    PORT_IN_USE = 69
    """The sidecar or devpi-server can't listen on its address (EX_UNAVAILABLE)."""
    INTERNAL = 70
    """A bug in the sidecar (EX_SOFTWARE)."""
    EXHAUSTED = 71
    """The system has no process, memory or descriptor left (EX_OSERR)."""
    NOT_WRITABLE = 73
    """The serverdir is not writable: owner, mode, read-only or full (EX_CANTCREAT)."""
    LOCKED = 75
    """Another server holds the serverdir, or its file system does not support locks (EX_TEMPFAIL)."""


class OperatorError(Exception):
    """An error that an operator can fix: the `reason`, and a `hint` on how to fix it."""

    def __init__(self, reason: str, hint: str) -> None:
        # `args` stay the arguments of the subclass, because pickling needs them
        self.reason = reason
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.reason}; {self.hint}"


class Exit(OperatorError):
    """Ends the container with the exit code `code`."""

    def __init__(self, code: int, reason: str, hint: str) -> None:
        super().__init__(reason, hint)
        self.code = code
