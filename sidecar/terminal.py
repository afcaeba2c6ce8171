"""Text of unknown origin, made fit for a terminal. Imports nothing: `sidecar healthcheck` uses it."""

from __future__ import annotations


def printable(text: str, limit: int = 300) -> str:
    """`text` on one line, at most `limit` characters, with control, bidi and unpaired characters escaped."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
