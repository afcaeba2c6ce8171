"""Whether devpi-server can check passwords against a hash, and what a check may cost: the hash says so itself."""

from __future__ import annotations

import base64
import re

MOST = {"m": 128 * 1024, "t": 8, "p": 16}
"""Of argon2: KiB of memory, passes over it, lanes. devpi asks for 65536, 3 and 4, older ones for 102400, 2 and 8."""
_NUMBER = "(0|[1-9][0-9]{0,9})"
_BASE64 = "([A-Za-z0-9+/]+)"
_ARGON2 = re.compile(
    rf"\$argon2(?:d|i|id)\$(?:v={_NUMBER}\$)?m={_NUMBER},t={_NUMBER},p={_NUMBER}\${_BASE64}\${_BASE64}"
)
_UINT32 = 2**32 - 1
_LANES = 2**24 - 1
_SALT_BYTES, _DIGEST_BYTES = 8, 4
"""The least that argon2 accepts."""


def is_checkable(pwhash: object, pwsalt: object) -> bool:
    """Whether devpi-server 6.20 can check passwords against this hash: it knows argon2 alone (`devpi_server.auth`).

    False for the salted SHA-256 of devpi-server 2 and 3, and for an argon2 hash that argon2 can't decode, such as a
    truncated one. A hash of which just so much is cut off that the rest can be decoded counts as checkable; no password
    matches it.
    """
    return isinstance(pwhash, str) and pwsalt is None and _asked(pwhash) is not None


def is_bearable(pwhash: str, pwsalt: str | None) -> bool:
    """Whether devpi may check passwords against this hash: False for an argon2 hash beyond `MOST`, or a malformed one.

    Any other is bearable: devpi-server knows argon2 alone, and gives up on a first look at, say, its own old SHA-256.
    """
    value = pwhash if pwsalt is None else f"{pwsalt}:{pwhash}"  # as devpi_server.auth puts them together
    if not value.startswith("$argon2"):
        return True
    asked = _asked(value)
    return asked is not None and all(each <= most for each, most in zip(asked, MOST.values(), strict=True))


def _asked(value: str) -> tuple[int, int, int] | None:
    """Memory, passes and lanes that an argon2 hash asks for; None where its `decode_string` fails."""
    if (parts := _ARGON2.fullmatch(value)) is None:
        return None
    version, memory, passes, lanes = (int(each or 0) for each in parts.groups()[:4])
    salt, digest = (_decoded_bytes(each) for each in parts.groups()[4:])
    sound = (
        max(version, memory, passes) <= _UINT32
        and 1 <= lanes <= _LANES
        and passes >= 1
        and memory >= 8 * lanes
        and salt >= _SALT_BYTES
        and digest >= _DIGEST_BYTES
    )
    return (memory, passes, lanes) if sound else None


def _decoded_bytes(text: str) -> int:
    """The length of unpadded base64, in bytes; 0 where it is none: argon2 wants the unused bits of its end to be 0."""
    if len(text) % 4 == 1:
        return 0
    data = base64.b64decode(text + "=" * (-len(text) % 4))
    return len(data) if base64.b64encode(data).rstrip(b"=") == text.encode() else 0
