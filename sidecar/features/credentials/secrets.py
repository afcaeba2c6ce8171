"""Secrets at rest in `SERVERDIR/.sidecar`: the folder, what goes wrong with it, and the admin token.

Root's password is in `root_password`, devpi's login secret in `login_secret`. All of it blocks on the disk:
call it in a thread. No message and no repr has a secret or a path in it, for messages come to `/status`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
import string
from dataclasses import dataclass, field
from pathlib import Path

from sidecar.core import files
from sidecar.core.disk_hints import SERVERDIR, hint_to_read
from sidecar.core.errors import Exit, ExitCode
from sidecar.storage import layout

LIMIT = 64 * 1024
"""Bytes that a secret or its record may have."""


class CredentialsError(Exit):
    """A secret can't be read, kept or used."""

    def __init__(self, reason: str, hint: str, code: ExitCode = ExitCode.NOT_WRITABLE) -> None:
        super().__init__(code, reason, hint)


class CredentialsDamaged(CredentialsError):
    """What is on the disk is no record of ours."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason, hint, ExitCode.DAMAGED)


def generate_password() -> str:
    """A new password for root: 32 letters and digits, 190 random bits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(32))


def generate_token() -> str:
    """A new admin token: 43 characters that a header may carry, 256 random bits."""
    return secrets.token_urlsafe(32)


def secure_directory(path: Path) -> None:
    """Make `.sidecar` and what lies in it unreadable for others, and remove a killed run's unfinished files.

    Kubernetes' fsGroup makes folders 2770 and files 0660 at each start. What belongs to another user is left
    as it is, but for the secrets, which become copies of our own where the folder's group lets us. Nobody may
    be writing in it meanwhile. Raises `CredentialsError`.
    """
    try:
        try:
            path.mkdir(0o700)
            files.fsync_dir(path.parent)
        except FileExistsError:
            pass
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if stat.S_IMODE(os.fstat(descriptor).st_mode) != 0o700:
                os.fchmod(descriptor, 0o700)
        except PermissionError:
            pass
        finally:
            os.close(descriptor)
        files.remove_leftovers(path)
        for entry in os.scandir(path):
            if entry.is_file(follow_symlinks=False) and stat.S_IMODE(entry.stat().st_mode) != 0o600:
                # A copy of the lock file would be another lock: only the secrets may be replaced.
                known = entry.name in (layout.ROOT_PASSWORD, layout.ADMIN_TOKEN, layout.LOGIN_SECRET)
                files.make_private(path / entry.name, copy_limit=LIMIT if known else None)
    except OSError as error:
        raise CredentialsError(
            f"the serverdir's .sidecar folder can't be used: {error.strerror}",
            hint_to_read(error, SERVERDIR, "let uid {uid} own it, or write in it by way of its group"),
        ) from error


def read_secret(path: Path, *, follow: bool = False) -> bytes | None:
    """The content of one of the files in `.sidecar`; None where absent. Raises `CredentialsError`."""
    try:
        return files.read_file(path, LIMIT, follow=follow)
    except OSError as error:
        raise CredentialsError(
            f"{path.name} can't be read: {error.strerror}",
            hint_to_read(error, SERVERDIR, "let uid {uid} own the file, or read it by way of its group"),
        ) from error


@dataclass(frozen=True, slots=True)
class AdminToken:
    """The bearer token of the admin routes."""

    value: str = field(repr=False)
    _digest: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_digest", hashlib.sha256(self.value.encode()).digest())

    @classmethod
    def load_or_generate(cls, path: Path, given: str | None) -> AdminToken:
        """`given`, which is not written to the volume; else what `path` holds; else a new one, kept there.

        Raises `CredentialsError`, and OSError where the new one can't be written.
        """
        if given is not None:
            return cls(given)
        if (data := read_secret(path)) is None:
            token = cls(generate_token())
            files.write_file(path, token.value.encode())
            return token
        if not re.fullmatch(rb"[A-Za-z0-9._~+/=-]{16,1024}\n?", data):
            raise CredentialsDamaged(f"{path.name} holds no token", "remove the file: a new token is generated")
        files.make_private(path, copy_limit=LIMIT)
        return cls(data.decode().removesuffix("\n"))

    def matches(self, raw: bytes) -> bool:
        """Whether `raw` is the token, in a time that tells neither its content nor its length."""
        return hmac.compare_digest(hashlib.sha256(raw).digest(), self._digest)
