"""argon2, one run at a time in the whole process: each takes 64 MiB, and one that derives devpi's keys up to 512.

devpi hashes and checks passwords in whichever thread comes by: a login, a `PATCH` of a user, what the sidecar asks of
root's. It derives a key when the first replica asks, for each of those that ask at once. Whoever has the turn waits for
nothing else, so it may be waited for inside devpi's write transaction.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from argon2.exceptions import Argon2Error
from argon2.low_level import error_to_str
from devpi_server import auth
from devpi_server.config import Config

if TYPE_CHECKING:
    from passlib.context import CryptContext


_STARVED = (error_to_str(-22), error_to_str(-33))
"""What argon2 says of ARGON2_MEMORY_ALLOCATION_ERROR and ARGON2_THREAD_FAIL."""


@contextmanager
def no_verdict_without_memory() -> Iterator[None]:
    """Raise MemoryError if argon2 gets no memory or no thread: passlib takes that for a malformed hash (ValueError)."""
    try:
        yield
    except ValueError as error:
        if isinstance(error.__context__, Argon2Error) and str(error.__context__) in _STARVED:
            raise MemoryError(str(error.__context__)) from error
        raise


class Turn:
    """A lock that is had in the order in which it was asked for.

    A `threading.Lock` goes to whoever runs just then, often a newcomer: under a crowd some wait several times as long.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._taken = False
        self._line: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            call = threading.Lock()
            call.acquire()
            self._line.append(call)
        call.acquire()

    def __exit__(self, *_: object) -> None:
        with self._guard:
            if self._line:
                self._line.popleft().release()
            else:
                self._taken = False


class InTurn:
    """passlib's context with which devpi hashes and checks passwords, used by one thread at a time."""

    def __init__(self, context: CryptContext, turn: Turn) -> None:
        self._context = context
        self._turn = turn

    def hash(self, password: str) -> str:
        """A new hash. Raises MemoryError."""
        with self._turn, no_verdict_without_memory():
            return str(self._context.hash(password))

    def verify_and_update(self, password: str, pwhash: str) -> tuple[bool, str | None]:
        """Whether the password has this hash, and a new one where this is too weak.

        Raises ValueError, TypeError, MemoryError.
        """
        with self._turn, no_verdict_without_memory():
            valid, renewed = self._context.verify_and_update(password, pwhash)
            return bool(valid), renewed


def one_at_a_time() -> None:
    """Have devpi wait for its turn before each hash, check and derivation, from now on."""
    turn = Turn()
    auth.pwd_context = InTurn(auth.pwd_context, turn)
    derive = Config.get_derived_key

    def get_derived_key(config: Config, salt: bytes) -> bytes:
        # each request of a replica asks: it waits for nobody
        known: bytes | None = config._key_cache.get(salt)  # type: ignore[call-overload] # whose keys are bytes indeed
        if known is not None:
            return known
        with turn:
            return bytes(derive(config, salt))

    Config.get_derived_key = get_derived_key  # type: ignore[method-assign]
