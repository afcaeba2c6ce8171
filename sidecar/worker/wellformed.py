"""Answer malformed requests with 400 instead of devpi-server's 500 and traceback: anybody can send them.

There are three checks, each at the place where devpi or its libraries would fail: before devpi's app (undecodable path,
query, or header with a URL), and where its views read forms and JSON.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from devpi_server import views
from pyramid.httpexceptions import HTTPBadRequest, HTTPRequestEntityTooLarge
from pyramid.request import Request

from sidecar.worker.access_log import WsgiApp

_URLENCODED, _MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"
_URLENCODED_LIMIT = 64 * 1024
"""Bytes: parsed, they take 90 times as much memory. Clients upload by multipart."""
_TEXT_FIELDS = (":action", "name", "version")
"""Form fields that devpi's views require to be text."""
_URL_HEADERS = ("HTTP_X_OUTSIDE_URL", "HTTP_X_ORIGINAL_URI")
"""As the WSGI environment has them."""


class Wellformed:
    """A WSGI app around devpi's: 400 if a part of the request can't be decoded."""

    def __init__(self, app: WsgiApp) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Pass the request on if it can be decoded."""
        if (why := _malformed(environ)) is None:
            return self._app(environ, start_response)
        body = f"400 Bad Request: {why}\n".encode()
        start_response("400 Bad Request", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]  # waitress would send it


def _malformed(environ: dict[str, Any]) -> str | None:
    """Return which part of a request can't be decoded; None if all can. Usually cheap: a few short strings."""
    path, query = environ.get("PATH_INFO", ""), environ.get("QUERY_STRING", "")
    if not path.isascii() and not _is_utf8(path.encode("latin-1")):
        return "the path is not UTF-8"
    if ("%" in query or not query.isascii()) and not _is_utf8(unquote_to_bytes(query.encode("latin-1"))):
        return "the query is not UTF-8"
    host = environ.get("HTTP_HOST", "")
    if not host.isascii() or (("[" in host or "]" in host) and not _is_url(f"//{host}")):
        return "Host is not a host"
    for name in _URL_HEADERS:
        if (url := environ.get(name)) and not (url.isascii() and _is_url(url) and _is_utf8(unquote_to_bytes(url))):
            return f"{name.removeprefix('HTTP_').replace('_', '-').title()} is not a URL"
    return None


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_url(text: str) -> bool:
    try:
        urlsplit(text).port  # noqa: B018 - raises ValueError
    except ValueError:
        return False
    return True


class FormChecked(Request):  # type: ignore[misc] # pyramid has no types
    """A request whose form is checked when a view reads it, not earlier."""

    @property
    def POST(self) -> Any:  # noqa: ANN401 - webob's name and type
        """Return the form; empty if the body isn't one. Raises HTTPBadRequest and HTTPRequestEntityTooLarge."""
        if self.content_type in ("", _URLENCODED) and (self.content_length or 0) > _URLENCODED_LIMIT:
            raise HTTPRequestEntityTooLarge(f"A form of more than {_URLENCODED_LIMIT} bytes must be {_MULTIPART}.")
        try:
            codecs.lookup(self.charset)
            form = super().POST
            misread = [name for name in _TEXT_FIELDS if name in form and not isinstance(form[name], str)]
        except (ValueError, LookupError, RecursionError, DeprecationWarning) as error:  # the last: webob, for a charset
            raise HTTPBadRequest(f"The form can't be read: {error}") from None
        if misread:
            raise HTTPBadRequest(f"The form field {misread[0]} is not text.")
        return form


def check_json() -> None:
    """Make devpi's views check the JSON that they read."""
    views.getjson = _getjson


def _getjson(request: Request) -> Any:  # noqa: ANN401 - whatever JSON it is
    """Return the JSON in a request's body; abort with 400 if its view would fail."""
    try:
        found = request.json_body
    except (ValueError, LookupError, RecursionError):  # not JSON; an unknown charset; nested too deeply
        views.abort(request, 400, "Bad request: could not decode json")
    if (why := _unfit(found, request.matched_route.name, request.method)) is not None:
        views.abort(request, 400, f"Bad request: {why}")
    return found


def _unfit(found: Any, route: str, method: str) -> str | None:  # noqa: ANN401
    """Return what is wrong with a body for the view of this route; None if nothing is."""
    if "/+f/" in route:  # a test result, which may be any JSON
        return None
    if isinstance(found, list) and method == "PATCH" and route.startswith("/{user}/{index}"):
        return None if all(isinstance(each, str) for each in found) else "a change is not a string"
    if not isinstance(found, dict):
        return "the body is not an object"
    if not all(is_unicode(text) for text in (*found, *found.values()) if isinstance(text, str)):
        return "a string is not valid Unicode"
    for name in _TEXTS.get((route.rstrip("/"), method), ()):
        if not isinstance(found.get(name), str | None):
            return f"{name} is not a string"
    for name in _NEEDED.get((route.rstrip("/"), method), ()):
        if found.get(name) is None:
            return f"{name} is missing"
    return None


def is_unicode(text: str) -> bool:
    """Whether the text has no unpaired surrogate, which JSON can express, but a database can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_TEXTS = {
    ("/+login", "POST"): ("user", "password"),
    ("/{user}", "PUT"): ("password",),
    ("/{user}", "PATCH"): ("password",),
    ("/{user}/{index}", "POST"): ("name", "version", "targetindex"),
    ("/{user}/{index}", "PUSH"): ("name", "version", "targetindex"),
}
"""By route and method: the fields that devpi uses as strings without a check."""
_NEEDED = {
    ("/{user}/{index}", "POST"): ("name", "version"),
    ("/{user}/{index}", "PUSH"): ("name", "version"),
}
"""By route and method: the fields without which devpi fails."""
