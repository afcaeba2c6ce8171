"""argon2, one run at a time in the whole process: each takes 64 MiB, and one that derives devpi's keys up to 512.

devpi hashes and checks passwords in whichever thread comes by: a login, a `PATCH` of a user, what the sidecar asks of
root's. It derives a key when the first replica asks, for each of those that ask at once. Whoever has the turn waits for
nothing else, so it may be waited for inside devpi's write transaction.

Where argon2 can't run, all of them raise `CannotTell`.
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
"""The process's."""


class InTurn:
    """passlib's context with which devpi hashes and checks passwords, used by one thread at a time."""

    def __init__(self, context: CryptContext) -> None:
        self._context = context

    def hash(self, password: str) -> str:
        """A new hash."""
        with _LOCK:
            return str(self._context.hash(password))

    def verify_and_update(self, password: str, value: str) -> tuple[bool, str | None]:
        """Whether the password has this hash, and a new one where this is too weak."""
        with _LOCK:
            if not verification.matches(password, value):
                return False, None
            return True, str(self._context.hash(password)) if self.needs_update(value) else None

    def needs_update(self, value: str) -> bool:
        """Whether devpi would make another hash today, of a password that matches this one.

        passlib knows fewer versions of argon2 than argon2 itself: a hash of another one stays.
        """
        try:
            return bool(self._context.needs_update(value))
        except ValueError:
            return False


def matches(password: str, pwhash: str, pwsalt: str | None) -> bool:
    """Whether the password matches the hash, in turn; none matches an unusable one. Raises CannotTell."""
    with _LOCK:
        return verification.matches(password, verification.joined(pwhash, pwsalt))


def is_weak(pwhash: str, pwsalt: str | None) -> bool:
    """Whether devpi renews this hash, which a password has matched, once it can."""
    return bool(auth.pwd_context.needs_update(verification.joined(pwhash, pwsalt)))


def one_at_a_time() -> None:
    """Have devpi wait for its turn before each hash, check and derivation, from now on."""
    low_level.error_to_str = verification.raise_by_code
    auth.pwd_context = InTurn(auth.pwd_context)
    derive = Config.get_derived_key

    def get_derived_key(config: Config, salt: bytes) -> bytes:
        # each request of a replica asks: it waits for nobody
        known: bytes | None = config._key_cache.get(salt)  # type: ignore[call-overload] # whose keys are bytes indeed
        if known is not None:
            return known
        with _LOCK:
            return bytes(derive(config, salt))

    Config.get_derived_key = get_derived_key  # type: ignore[method-assign]
