"""Check whether a password matches a hash, by argon2's own error code: "argon2 could not run" is not a "no".

passlib raises the same `ValueError`, with the hash in its text, for a truncated hash and for a thread that can't be
started, and argon2-cffi hides the code. So this module calls argon2's library directly.
"""

from __future__ import annotations

from typing import Any

from argon2 import low_level

from sidecar.core.password_hash import is_bearable

_LIB: Any = low_level.lib  # type: ignore[attr-defined] # argon2-cffi's binding has no types
_FFI: Any = low_level.ffi
_TEXT = low_level.error_to_str
_KINDS = {"$argon2i$": low_level.Type.I, "$argon2d$": low_level.Type.D, "$argon2id$": low_level.Type.ID}
_UNUSABLE = frozenset(
    getattr(_LIB, f"ARGON2_{name}")
    for name in (
        *("DECODING_FAIL", "DECODING_LENGTH_FAIL", "INCORRECT_TYPE", "INCORRECT_PARAMETER"),
        *("SALT_TOO_SHORT", "SALT_TOO_LONG", "OUTPUT_TOO_SHORT", "OUTPUT_TOO_LONG", "TIME_TOO_SMALL", "TIME_TOO_LARGE"),
        *("MEMORY_TOO_LITTLE", "MEMORY_TOO_MUCH", "LANES_TOO_FEW", "LANES_TOO_MANY"),
    )
)
"""The codes of permanent errors, in the hash itself. All others are temporary."""


class CannotTell(Exception):
    """argon2 could not run, for lack of memory or threads. The text is argon2's, and contains no hash or password."""


def joined(pwhash: str, pwsalt: str | None) -> str:
    """Join a hash and its salt as devpi_server.auth does."""
    return pwhash if pwsalt is None else f"{pwsalt}:{pwhash}"


def matches(password: str, value: str) -> bool:
    """Whether the password matches a `joined` hash. No password matches an unusable one. Raises CannotTell."""
    kind = _KINDS.get(value[: value.find("$", 1) + 1])
    if kind is None or not is_bearable(value, None):
        return False
    try:
        secret, encoded = password.encode(), value.encode("ascii")
    except UnicodeEncodeError:
        return False  # devpi can't have hashed such a password or made such a hash
    try:
        code = _LIB.argon2_verify(_FFI.new("char[]", encoded), _FFI.new("uint8_t[]", secret), len(secret), kind.value)
    except MemoryError:
        raise CannotTell("Memory allocation error") from None
    if code == _LIB.ARGON2_OK:
        return True
    if code == _LIB.ARGON2_VERIFY_MISMATCH or code in _UNUSABLE:
        return False
    raise CannotTell(_TEXT(code))


def raise_by_code(error: int) -> str:
    """Replace argon2-cffi's `error_to_str`, which is called for each error of hashing. Raises CannotTell.

    An error in the parameters of a new hash, which devpi or the operator sets, stays argon2-cffi's own exception.
    """
    if error == _LIB.ARGON2_VERIFY_MISMATCH or error in _UNUSABLE:
        return _TEXT(error)
    raise CannotTell(_TEXT(error))
