"""Text of unknown origin, made fit for a terminal, and whether it may have colours. `sidecar healthcheck` uses it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # as in `sidecar.locate`
    from collections.abc import Mapping


def wants_color(environ: Mapping[str, str]) -> bool:
    """Whether a terminal's user would have colours: NO_COLOR (https://no-color.org) and TERM say so."""
    return not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def printable(text: str, limit: int = 300) -> str:
    """`text` on one line, at most `limit` characters, with control, bidi and unpaired characters escaped."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
