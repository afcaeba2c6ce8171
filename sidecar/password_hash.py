"""What a check of a password may cost: the hash says so itself, and anybody may ask for a check."""

from __future__ import annotations

import re

MOST = {"m": 128 * 1024, "t": 8, "p": 16}
"""Of argon2: KiB of memory, passes over it, lanes. devpi asks for 65536, 3 and 4, older ones for 102400, 2 and 8."""
_ARGON2 = re.compile(
    r"\$argon2(?:d|i|id)\$(?:v=[0-9]+\$)?m=([0-9]{1,10}),t=([0-9]{1,10}),p=([0-9]{1,10})\$[^$]+\$[^$]+"
)


def is_bearable(pwhash: str, pwsalt: str | None) -> bool:
    """Whether devpi may check passwords against this hash: False for an argon2 hash beyond `MOST`, or a malformed one.

    Any other is bearable: devpi-server knows argon2 alone, and gives up on a first look at, say, its own old SHA-256.
    """
    value = pwhash if pwsalt is None else f"{pwsalt}:{pwhash}"  # as devpi_server.auth puts them together
    if not value.startswith("$argon2"):
        return True
    asked = _ARGON2.fullmatch(value)
    return asked is not None and all(
        int(each) <= most for each, most in zip(asked.groups(), MOST.values(), strict=True)
    )
