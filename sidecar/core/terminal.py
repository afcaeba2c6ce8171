"""Untrusted text made safe for a terminal, and the terminal's colours and width. `sidecar healthcheck` uses it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # as in `sidecar.core.discovery`
    from collections.abc import Mapping
    from typing import TextIO


def wants_color(environ: Mapping[str, str]) -> bool:
    """Whether NO_COLOR (https://no-color.org) and TERM allow colours."""
    return not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def columns(stream: TextIO) -> int | None:
    """The width of the stream's terminal, None without one. A width of 0, with which `docker exec` begins, is 80."""
    import os

    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):  # no terminal; no file at all
        return None


def printable(text: str, limit: int = 300) -> str:
    """`text` on one line, at most `limit` characters, with control, bidi and unpaired characters escaped."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
