"""devpi-server's login secret (`--secretfile`): kept on the volume, copied to the runtime directory.

devpi requires a file that only its owner can access, in a folder that only its owner can write to. Kubernetes' fsGroup
changes both on a volume at every start, and mounts secrets as 0440. So devpi-server reads a copy.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from sidecar.core import discovery, files
from sidecar.core.disk_hints import hint_to_read
from sidecar.features.credentials.secrets import LIMIT, CredentialsDamaged, CredentialsError, read_secret
from sidecar.storage import layout

log = logging.getLogger(__name__)

Origin = Literal["generated", "adopted"]
Derivation = Literal["cheap", "devpi"]


def generate_login_secret() -> bytes:
    """Return a new login secret as devpi makes it: 256 random bits, 44 characters of base64."""
    return base64.b64encode(secrets.token_bytes(32))


@dataclass(slots=True)
class LoginSecret:
    """The secret with which devpi signs its login tokens. `renew` changes it in place."""

    secret: bytes = field(repr=False)
    origin: Origin
    derivation: Derivation
    """The argon2 parameters that derive devpi's keys. `cheap`: for 256 random bits the 512 MiB and 10 CPU-s of devpi's
    default gain nothing. `devpi`: devpi's default, for a secret that was not generated here.
    """
    path: Path = field(repr=False)

    @classmethod
    def load_or_generate(cls, sidecar_dir: Path, serverdir: Path) -> LoginSecret:
        """Return the secret in `sidecar_dir`, otherwise `serverdir`'s `.secret`, otherwise a new one, and store it.

        Makes the file private if that is permitted. Raises `CredentialsError`, and OSError if it can't be written.
        """
        path = sidecar_dir / layout.LOGIN_SECRET
        if (data := read_secret(path)) is not None:
            files.make_private(path, copy_limit=LIMIT)
            return cls._parse(data, path)
        adopted = read_adoptable(serverdir)
        if adopted is None:
            kept = cls(generate_login_secret(), "generated", "cheap", path)
        else:
            kept = cls(adopted, "adopted", "devpi", path)
        kept._store()
        return kept

    def renew(self, secret: bytes | None = None) -> None:
        """Durably replace the secret by `secret`, of `generate_login_secret`, or a new one. Raises OSError.

        Login tokens signed with the old one are invalid once devpi has the new one.
        """
        new = LoginSecret(secret or generate_login_secret(), "generated", "cheap", self.path)
        self.path.with_name(layout.DERIVATION).unlink(missing_ok=True)  # ending the logins is intended: no warning
        new._store()
        self.secret, self.origin, self.derivation = new.secret, new.origin, new.derivation

    def _store(self) -> None:
        content = {
            "secret": base64.b64encode(self.secret).decode(),
            "origin": self.origin,
            "derivation": self.derivation,
        }
        files.write_file(self.path, json.dumps(content).encode() + b"\n")

    @classmethod
    def _parse(cls, data: bytes, path: Path) -> LoginSecret:
        hint = "restore it, or move it away to generate a new one, which ends all logins"
        try:
            content = json.loads(data)
            encoded, origin, derivation = (content[name] for name in ("secret", "origin", "derivation"))
            secret = base64.b64decode(encoded, validate=True)
        except (ValueError, TypeError, KeyError, RecursionError, binascii.Error):
            raise CredentialsDamaged(f"the login secret ({path.name}) is damaged", hint) from None
        if origin not in ("generated", "adopted") or derivation not in ("cheap", "devpi"):
            raise CredentialsDamaged(f"the login secret ({path.name}) is of an unknown kind", hint)
        _check(secret, f"the login secret ({path.name})", hint)
        return cls(secret, cast(Origin, origin), cast(Derivation, derivation), path)


def read_adoptable(serverdir: Path) -> bytes | None:
    """Return the serverdir's `.secret`; None if absent. Raises `CredentialsError` if devpi would reject it."""
    secret = read_secret(serverdir / ".secret", follow=True)
    if secret is not None:
        _check(secret, "the serverdir's .secret", "move it away to generate a new one, which ends all logins")
    return secret


@dataclass(frozen=True, slots=True)
class PlacedSecret:
    """The login secret as devpi-server reads it."""

    path: Path
    derivation: Derivation
    own: LoginSecret | None
    """None: it is the operator's own (--secretfile), and can't be renewed here."""


def place_secret(
    sidecar_dir: Path,
    serverdir: Path,
    runtime_dir: Path,
    *,
    given: Path | None,
    is_random: bool,
    renew: bool,
) -> PlacedSecret:
    """Place the login secret where devpi-server can read it: the one kept in `sidecar_dir`, unless `given`.

    `given`: the copy that `copy_provided_secret` made. `is_random`: the operator declares a secret random that was not
    generated here. `renew`: end all logins, unless `given`. Raises `CredentialsError` and OSError.
    """
    own = None
    if given is None:
        own = LoginSecret.load_or_generate(sidecar_dir, serverdir)
        if renew:
            own.renew()
        path = place_copy(own.secret, runtime_dir)
    else:
        path = given
    cheap = is_random or (own is not None and own.derivation == "cheap")
    return PlacedSecret(path, "cheap" if cheap else "devpi", own)


@dataclass(frozen=True, slots=True)
class DerivedKey:
    """The key with which devpi-server signs logins, derived from the secret."""

    digest: str
    """SHA-256 of the key, never of the secret: guessing that must cost devpi's derivation."""
    argon2: str
    """The parameters: `m=8,t=1,p=1`."""


def note_derived_key(sidecar_dir: Path, key: DerivedKey, *, kept: bool) -> None:
    """Record devpi-server's key, and warn in the log if it changed. Raises OSError.

    A changed key ends all logins, and separates a replica from its primary. `kept`: the secret is the one kept here,
    not the operator's own. A record in an older format is ignored.
    """
    path = sidecar_dir / layout.DERIVATION
    noted = {"key": key.digest, "argon2": key.argon2, "secret": "kept" if kept else "given"}
    before = _noted(files.read_file(path, LIMIT) or b"")
    if before == noted:
        return
    if before is not None and before["key"] != noted["key"]:
        if before["secret"] == noted["secret"] and before["argon2"] != noted["argon2"]:
            log.warning(
                "the derivation of devpi-server's keys from the login secret changed (argon2 %s, it was %s): all "
                "logins have ended; configure a primary and its replicas alike",
                noted["argon2"],
                before["argon2"],
            )
        else:
            log.warning(
                "the login secret changed: all logins have ended; set the same one on a primary and its replicas"
            )
    files.write_file(path, json.dumps(noted).encode())


def _noted(content: bytes) -> dict[str, str] | None:
    try:
        noted = json.loads(content)
        return {name: str(noted[name]) for name in ("key", "argon2", "secret")}
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def copy_provided_secret(source: Path, runtime_dir: Path) -> Path:
    """Copy the operator's own `--secretfile` to where devpi-server can read it, and return that path.

    Its mode and links don't matter. Raises `CredentialsError`, and OSError if the copy can't be written.
    """
    try:
        secret = files.read_file(source, LIMIT, follow=True)
    except OSError as error:
        raise CredentialsError(
            f"--secretfile can't be read: {error.strerror}",
            hint_to_read(error, "the file", "mount the file so that uid {uid} can read it"),
        ) from error
    if secret is None:
        raise CredentialsError("the file of --secretfile does not exist", "mount it, or remove the flag")
    _check(secret, "the file of --secretfile", "make a new one with devpi-gen-secret")
    return place_copy(secret, runtime_dir)


def _check(secret: bytes, name: str, hint: str) -> None:
    """Check devpi's conditions before devpi is started (devpi_server.config, get_validated_secret)."""
    if len(secret) < 32:
        raise CredentialsDamaged(f"{name} has {len(secret)} bytes, devpi requires at least 32", hint)
    if len(set(secret)) < 6:
        raise CredentialsDamaged(f"{name} has fewer than 6 different bytes, devpi requires at least 6", hint)


def place_copy(secret: bytes, runtime_dir: Path) -> Path:
    """Write the copy that devpi-server reads, and return its path. Raises OSError."""
    path = runtime_dir / discovery.LOGIN_SECRET
    files.write_file(path, secret, sync=False)
    return path
