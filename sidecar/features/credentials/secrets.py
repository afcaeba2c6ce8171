"""Secrets in `SERVERDIR/.sidecar`: the folder, its errors, and the admin token.

Root's password is in `root_password`, devpi's login secret in `login_secret`. All functions block on the disk: call
them in a thread. No message and no repr contains a secret or a path, because messages appear in `/status`.
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
"""Maximum bytes of a secret or its record."""


class CredentialsError(Exit):
    """A secret can't be read, stored or used."""

    def __init__(self, reason: str, hint: str, code: ExitCode = ExitCode.NOT_WRITABLE) -> None:
        super().__init__(code, reason, hint)


class CredentialsDamaged(CredentialsError):
    """A file on the disk is not what the sidecar wrote."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason, hint, ExitCode.DAMAGED)


def generate_password() -> str:
    """Return a new password for root: 32 letters and digits, 190 random bits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(32))


def generate_token() -> str:
    """Return a new admin token: 43 characters that are valid in a header, 256 random bits."""
    return secrets.token_urlsafe(32)


def secure_directory(path: Path) -> None:
    """Make `.sidecar` and its files unreadable for others, and remove a killed run's unfinished files.

    Kubernetes' fsGroup makes folders 2770 and files 0660 at each start. Files of another user stay as they are, except
    the secrets: they are replaced by copies if the folder's group permits it. No process may write to it meanwhile.
    Raises `CredentialsError`.
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
                # a copy of the lock file would be another lock: only the secrets may be replaced
                known = entry.name in (layout.ROOT_PASSWORD, layout.ADMIN_TOKEN, layout.LOGIN_SECRET)
                files.make_private(path / entry.name, copy_limit=LIMIT if known else None)
    except OSError as error:
        raise CredentialsError(
            f"the serverdir's .sidecar folder can't be used: {error.strerror}",
            hint_to_read(error, SERVERDIR, "make it writable for uid {uid}, by its owner or its group"),
        ) from error


def read_secret(path: Path, *, follow: bool = False) -> bytes | None:
    """Return the content of a file in `.sidecar`; None if absent. Raises `CredentialsError`."""
    try:
        return files.read_file(path, LIMIT, follow=follow)
    except OSError as error:
        raise CredentialsError(
            f"{path.name} can't be read: {error.strerror}",
            hint_to_read(error, SERVERDIR, "make the file readable for uid {uid}, by its owner or its group"),
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
        """Return `given`, which is not written to the volume; otherwise the token at `path`; otherwise a new one.

        Raises `CredentialsError`, and OSError if the new one can't be written.
        """
        if given is not None:
            return cls(given)
        if (data := read_secret(path)) is None:
            token = cls(generate_token())
            files.write_file(path, token.value.encode())
            return token
        if not re.fullmatch(rb"[A-Za-z0-9._~+/=-]{16,1024}\n?", data):
            raise CredentialsDamaged(f"{path.name} contains no token", "remove the file to generate a new token")
        files.make_private(path, copy_limit=LIMIT)
        return cls(data.decode().removesuffix("\n"))

    def matches(self, raw: bytes) -> bool:
        """Whether `raw` is the token, in a time that reveals neither its content nor its length."""
        return hmac.compare_digest(hashlib.sha256(raw).digest(), self._digest)
