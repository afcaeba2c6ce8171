"""devpi-server's login secret (`--secretfile`): kept on the volume, copied to where devpi accepts it.

devpi wants the file exactly owner-only in a folder that nobody else can write. Kubernetes' fsGroup undoes
both on a volume at every start, and mounts secrets as 0440. So what devpi gets is a copy in the runtime
directory.
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
    """A new login secret, as devpi makes it: 256 random bits, 44 characters of base64."""
    return base64.b64encode(secrets.token_bytes(32))


@dataclass(slots=True)
class LoginSecret:
    """The secret that devpi signs its login tokens with. `renew` changes it in place."""

    secret: bytes = field(repr=False)
    origin: Origin
    derivation: Derivation
    """Which argon2 parameters may derive devpi's keys from it. `cheap`: it has 256 random bits, nothing is
    gained by the 512 MiB and 10 CPU-s of devpi's default. `devpi`: not ours, so devpi's own.
    """
    path: Path = field(repr=False)

    @classmethod
    def load_or_generate(cls, sidecar_dir: Path, serverdir: Path) -> LoginSecret:
        """What `sidecar_dir` holds; else `serverdir`'s `.secret`, adopted; else a new one. All are kept,
        durably.

        The mode and the owner of the file are brought in order, as far as we may. Raises `CredentialsError`,
        and OSError where a new or adopted one can't be written.
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

    def place(self, runtime_dir: Path) -> Path:
        """Copy the secret to where devpi-server may read it, and return that path. Before every launch of
        devpi.

        Raises OSError.
        """
        return place_copy(self.secret, runtime_dir)

    def renew(self, secret: bytes | None = None) -> bytes:
        """Replace the secret by `secret`, fresh from `generate_login_secret`, or a new one; durable. Raises
        OSError.

        Every login token signed with the old one is void once devpi has the new one.
        """
        new = LoginSecret(secret or generate_login_secret(), "generated", "cheap", self.path)
        self.path.with_name(layout.DERIVATION).unlink(missing_ok=True)  # that logins end is wanted, and no news
        new._store()
        self.secret, self.origin, self.derivation = new.secret, new.origin, new.derivation
        return self.secret

    def _store(self) -> None:
        content = {
            "secret": base64.b64encode(self.secret).decode(),
            "origin": self.origin,
            "derivation": self.derivation,
        }
        files.write_file(self.path, json.dumps(content).encode() + b"\n")

    @classmethod
    def _parse(cls, data: bytes, path: Path) -> LoginSecret:
        hint = "restore it, or move it away: a new one is generated, and all logins end"
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
    """The serverdir's `.secret`; None where there is none. Raises `CredentialsError` if devpi would refuse it."""
    secret = read_secret(serverdir / ".secret", follow=True)
    if secret is not None:
        _check(secret, "the serverdir's .secret", "move it away: a new one is generated, and all logins end")
    return secret


@dataclass(frozen=True, slots=True)
class PlacedSecret:
    """The login secret where devpi-server reads it."""

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
    """Have the login secret where devpi-server may read it: the one kept in `sidecar_dir`, unless one is `given`.

    `given`: the copy that `copy_provided_secret` made. `is_random`: the operator says so of a secret that was not
    generated here. `renew`: end all logins, where the secret is ours.
    Raises `CredentialsError` and OSError.
    """
    own = None
    if given is None:
        own = LoginSecret.load_or_generate(sidecar_dir, serverdir)
        if renew:
            own.renew()
        path = own.place(runtime_dir)
    else:
        path = given
    cheap = is_random or (own is not None and own.derivation == "cheap")
    return PlacedSecret(path, "cheap" if cheap else "devpi", own)


@dataclass(frozen=True, slots=True)
class DerivedKey:
    """The key that devpi-server signs logins with, as it derived it from the secret: named, and how."""

    digest: str
    """SHA-256 of the key. Never of the secret: a guess at that shall cost what devpi's derivation costs."""
    argon2: str
    """The parameters: `m=8,t=1,p=1`."""


def note_derived_key(sidecar_dir: Path, key: DerivedKey, *, kept: bool) -> None:
    """Remember devpi-server's key, and say so in the log where it is another one than before. Raises OSError.

    Another one ends all logins, and parts a replica from its primary. `kept`: the secret is the one kept here, not the
    operator's own. A note of an earlier shape is forgotten, and so is all where the secret was renewed.
    """
    path = sidecar_dir / layout.DERIVATION
    noted = {"key": key.digest, "argon2": key.argon2, "secret": "kept" if kept else "given"}
    before = _noted(files.read_file(path, LIMIT) or b"")
    if before == noted:
        return
    if before is not None and before["key"] != noted["key"]:
        if before["secret"] == noted["secret"] and before["argon2"] != noted["argon2"]:
            log.warning(
                "devpi-server's keys are derived from the login secret in another way than before (argon2 %s, it was "
                "%s): all logins have ended, and a primary and its replicas must be set alike",
                noted["argon2"],
                before["argon2"],
            )
        else:
            log.warning(
                "the login secret is another one than before: all logins have ended, and a primary and its replicas "
                "must have the same"
            )
    files.write_file(path, json.dumps(noted).encode())


def _noted(content: bytes) -> dict[str, str] | None:
    try:
        noted = json.loads(content)
        return {name: str(noted[name]) for name in ("key", "argon2", "secret")}
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def copy_provided_secret(source: Path, runtime_dir: Path) -> Path:
    """Copy the operator's own `--secretfile` to where devpi-server may read it, and return that path.

    Its mode and links don't matter. Raises `CredentialsError`, and OSError where the copy can't be written.
    """
    try:
        secret = files.read_file(source, LIMIT, follow=True)
    except OSError as error:
        raise CredentialsError(
            f"--secretfile can't be read: {error.strerror}",
            hint_to_read(error, "the file", "mount the file so that uid {uid} can read it"),
        ) from error
    if secret is None:
        raise CredentialsError("--secretfile names a file that does not exist", "mount it, or leave the flag away")
    _check(secret, "the file that --secretfile names", "make a new one with devpi-gen-secret")
    return place_copy(secret, runtime_dir)


def _check(secret: bytes, name: str, hint: str) -> None:
    """devpi's own conditions, found before devpi is started (devpi_server.config, get_validated_secret)."""
    if len(secret) < 32:
        raise CredentialsDamaged(f"{name} has {len(secret)} bytes, devpi wants at least 32", hint)
    if len(set(secret)) < 6:
        raise CredentialsDamaged(f"{name} repeats fewer than 6 different bytes, devpi refuses that", hint)


def place_copy(secret: bytes, runtime_dir: Path) -> Path:
    """Write the copy that devpi-server reads, and return its path. Raises OSError."""
    path = runtime_dir / discovery.LOGIN_SECRET
    files.write_file(path, secret, sync=False)
    return path
