"""Exit codes, and the error that ends the container with one of them."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """What the container's exit code tells. Beside these: devpi-server's own code, or 128+n for its signal."""

    STOPPED = 0
    """A clean stop was asked for and done."""
    SETTINGS = 2
    """A setting or a devpi-server flag is wrong; nothing on disk was touched."""
    IMPORT_FAILED = 3
    """The import failed, and SIDECAR_ON_IMPORT_FAILURE is `exit`."""
    DAMAGED = 65
    """The serverdir holds something that must not be served nor initialised over (sysexits' EX_DATAERR)."""
    PORT_IN_USE = 69
    """The sidecar's or devpi-server's address can't be listened on (EX_UNAVAILABLE)."""
    INTERNAL = 70
    """An error of the sidecar itself (EX_SOFTWARE)."""
    EXHAUSTED = 71
    """The system refuses a process, memory or a descriptor (EX_OSERR)."""
    NOT_WRITABLE = 73
    """The serverdir can't be written to: owner, mode, read-only or full (EX_CANTCREAT)."""
    LOCKED = 75
    """Another server holds the serverdir, or its file system can't lock (EX_TEMPFAIL)."""


class OperatorError(Exception):
    """What an operator has to know and can do something about: the `reason`, and a `hint` how to fix it."""

    def __init__(self, reason: str, hint: str) -> None:
        # `args` stay what a subclass was made with, which is what pickling needs
        self.reason = reason
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.reason}; {self.hint}"


class Exit(OperatorError):
    """Ends the container, with this exit code."""

    def __init__(self, code: int, reason: str, hint: str) -> None:
        super().__init__(reason, hint)
        self.code = code
