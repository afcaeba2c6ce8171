"""Run argon2 once at a time in the process: a run takes 64 MiB, one that derives devpi's keys up to 512 MiB.

devpi hashes and checks passwords in many threads: for a login, for a `PATCH` of a user, for the sidecar's questions
about root. It derives a key when a replica first connects, once for each request that arrives meanwhile. A thread that
holds the lock waits for nothing else, so taking it inside devpi's write transaction can't deadlock.

All functions raise `CannotTell` if argon2 can't run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from argon2 import low_level
from devpi_server import auth
from devpi_server.config import Config

from sidecar.worker import verification
from sidecar.worker.fifo_lock import FifoLock

if TYPE_CHECKING:
    from passlib.context import CryptContext


_LOCK = FifoLock()


class InTurn:
    """devpi's passlib context, used by one thread at a time."""

    def __init__(self, context: CryptContext) -> None:
        self._context = context

    def hash(self, password: str) -> str:
        """Return a new hash."""
        with _LOCK:
            return str(self._context.hash(password))

    def verify_and_update(self, password: str, value: str) -> tuple[bool, str | None]:
        """Return whether the password matches this hash, and a new hash if this one is too weak."""
        with _LOCK:
            if not verification.matches(password, value):
                return False, None
            return True, str(self._context.hash(password)) if self.needs_update(value) else None

    def needs_update(self, value: str) -> bool:
        """Whether the hash is weaker than a new one.

        passlib supports fewer versions of argon2 than argon2 itself; hashes of the others are kept.
        """
        try:
            return bool(self._context.needs_update(value))
        except ValueError:
            return False


def matches(password: str, pwhash: str, pwsalt: str | None) -> bool:
    """Whether the password matches the hash; none matches an unusable one. Raises CannotTell."""
    with _LOCK:
        return verification.matches(password, verification.joined(pwhash, pwsalt))


def is_weak(pwhash: str, pwsalt: str | None) -> bool:
    """Whether devpi replaces this hash after a successful check in a write transaction."""
    return bool(auth.pwd_context.needs_update(verification.joined(pwhash, pwsalt)))


def one_at_a_time() -> None:
    """Make devpi hash, check and derive under one lock."""
    low_level.error_to_str = verification.raise_by_code
    auth.pwd_context = InTurn(auth.pwd_context)
    derive = Config.get_derived_key

    def get_derived_key(config: Config, salt: bytes) -> bytes:
        # without the lock: each request of a replica needs the key
        known: bytes | None = config._key_cache.get(salt)  # type: ignore[call-overload] # its keys are bytes
        if known is not None:
            return known
        with _LOCK:
            return bytes(derive(config, salt))

    Config.get_derived_key = get_derived_key  # type: ignore[method-assign]
