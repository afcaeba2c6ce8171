"""Names of projects: which ones are valid, and how they are compared."""

from __future__ import annotations

import re

LONGEST = 200
"""Characters of a valid name."""

_matches = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?").fullmatch
_RUNS = re.compile("[-_.]+")


def valid(names: list[object]) -> list[str]:
    """Return those that are names by PEP 508, of at most `LONGEST` characters."""
    return [name for name in names if isinstance(name, str) and _matches(name) and len(name) <= LONGEST]


def normalize(names: str) -> str:
    """Return a name, or names separated by newlines, in the form of PEP 503."""
    return _RUNS.sub("-", names).lower()


class NotAList(Exception):
    """The document can't be used. The message has at most 100 characters of it, all of them printable."""

    def __init__(self, reason: str, kind: str = "unreadable") -> None:
        super().__init__(reason)
        self.kind = kind
        """As in `UpstreamsSeen`: `unreadable`, `cut` or `too-large`."""


def shown(text: object) -> str:
    """Return the start of a hostile text for a message."""
    return ascii(str(text)[:60])[:100]
