"""Whether devpi-server can check passwords against a hash, and at what cost, read from the hash itself."""

from __future__ import annotations

import base64
import re

MOST = {"m": 128 * 1024, "t": 8, "p": 16}
"""Of argon2: KiB of memory, passes, lanes. devpi uses 65536, 3 and 4, older versions 102400, 2 and 8."""
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
    """Whether devpi-server 6.20 can check passwords against this hash: only argon2 is supported (`devpi_server.auth`).

    False for the salted SHA-256 of devpi-server 2 and 3, and for an argon2 hash that can't be decoded, such as a
    truncated one. A truncated hash that can still be decoded counts as checkable; no password matches it.
    """
    return isinstance(pwhash, str) and pwsalt is None and _asked(pwhash) is not None


def is_bearable(pwhash: str, pwsalt: str | None) -> bool:
    """Whether devpi may check passwords against this hash: False for an argon2 hash beyond `MOST`, or a malformed one.

    Other hashes cost nothing: devpi-server rejects all but argon2 at once.
    """
    value = pwhash if pwsalt is None else f"{pwsalt}:{pwhash}"  # as devpi_server.auth joins them
    if not value.startswith("$argon2"):
        return True
    asked = _asked(value)
    return asked is not None and all(each <= most for each, most in zip(asked, MOST.values(), strict=True))


def _asked(value: str) -> tuple[int, int, int] | None:
    """Memory, passes and lanes of an argon2 hash; None if argon2's `decode_string` would fail."""
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
    """The length of unpadded base64, in bytes; 0 if it is invalid: argon2 requires its unused last bits to be 0."""
    if len(text) % 4 == 1:
        return 0
    data = base64.b64decode(text + "=" * (-len(text) % 4))
    return len(data) if base64.b64encode(data).rstrip(b"=") == text.encode() else 0
