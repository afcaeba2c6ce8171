"""devpi's password hashes: made, checked, and named."""

from __future__ import annotations

import hashlib

from sidecar.worker.patches import hashing


def hash_of(password: str) -> str:
    """devpi's hash of a password (argon2id, 64 MiB). Raises CannotTell."""
    from devpi_server.auth import hash_password

    return str(hash_password(password))


def is_hash_of_empty(pwhash: str, pwsalt: str | None) -> bool:
    """Whether the empty password matches the hash. Raises CannotTell."""
    return is_hash_of("", pwhash, pwsalt)


def is_hash_of(password: str, pwhash: str, pwsalt: str | None) -> bool:
    """Whether the password matches the hash; none matches one that devpi can't check. Raises CannotTell."""
    return hashing.matches(password, pwhash, pwsalt)


def digest(pwhash: str) -> str:
    """Names a password hash without being one."""
    return hashlib.sha256(pwhash.encode()).hexdigest()
