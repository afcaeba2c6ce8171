"""Content negotiation by `Accept`: text, HTML or JSON."""

from __future__ import annotations

from functools import lru_cache

from aiohttp import web

_JSON = frozenset({"application/json", "application/*", "application/problem+json"})
_TEXT = frozenset({"text/plain", "text/html", "text/*"})


def wants_html(request: web.Request) -> bool:
    """Whether `Accept` names HTML; browsers do, curl doesn't."""
    return any(
        part.partition(";")[0].strip() == "text/html" for part in request.headers.get("Accept", "").lower().split(",")
    )


def wants_text(request: web.Request, *, otherwise: bool) -> bool:
    """Whether `Accept` prefers text to JSON; `otherwise` if it names neither (`*/*`, or no header)."""
    accept = request.headers.get("Accept")
    if accept is None or accept == "*/*":
        return otherwise
    named = _names_text(accept)
    return otherwise if named is None else named


@lru_cache(maxsize=64)
def _names_text(accept: str) -> bool | None:
    text = json = 0.0
    for part in accept.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        quality = _quality(parameters)
        if kind in _JSON:
            json = max(json, quality)
        elif kind in _TEXT:
            text = max(text, quality)
    if not text and not json:
        return None
    return text > json


def quality(accept: str, kind: str) -> float:
    """Return the quality (0 to 1) that an `Accept` gives this exact media type; parameters are ignored."""
    found = 0.0
    for part in accept.lower().split(","):
        named, *parameters = (piece.strip() for piece in part.split(";"))
        if named == kind:
            found = max(found, _quality(parameters))
    return found


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0
