"""Where credentials may go: to the index's own origin, and nowhere else."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import httpx

_PORTS = {"http": 80, "https": 443}


def origin(url: httpx.URL) -> tuple[str, str, int | None]:
    """Return scheme, host and port."""
    return url.scheme, url.host.rstrip("."), url.port or _PORTS.get(url.scheme)


def origin_words(url: httpx.URL) -> str:
    """Return the origin as a URL, for messages."""
    port = "" if url.port is None else f":{url.port}"
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{url.scheme}://{host}{port}"


def authority(url: httpx.URL) -> str:
    """Return host and port, for messages."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{host}:{url.port or _PORTS.get(url.scheme, '')}"


def without_userinfo(url: httpx.URL) -> httpx.URL:
    """Return the URL without user, password and fragment."""
    return url.copy_with(userinfo=b"", fragment=None)


def basic(user: str, password: str) -> str:
    """Return the value of an Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


class Credentials:
    """The credentials of one index."""

    def __init__(self, url: httpx.URL, user: str | None = None, password: str | None = None) -> None:
        """`url`: the index's, which may have user and password; those that are given win."""
        self._origin = origin(url)
        raw = url.userinfo.decode("ascii", "replace")
        raw_user, _, raw_password = raw.partition(":")
        self._undecoded = basic(raw_user, raw_password) if raw else None
        """What devpi makes of the URL: it doesn't decode it."""
        self._own: str | None = None
        if user is not None or password is not None:
            self._own = basic(user or "", password or "")
        elif raw:
            self._own = basic(url.username, url.password)

    def header(self, url: httpx.URL, given: Mapping[str, str], *, redirected: bool) -> str | None:
        """Return the Authorization header for a request; `given`: the caller's headers, by names in lower case.

        A plugin of devpi may have got credentials that replace the URL's: those are in `given`.
        """
        if origin(url) == self._origin:
            passed = given.get("authorization")
            return self._own if passed is None or passed == self._undecoded else passed
        if url.userinfo and not redirected:
            return basic(url.username, url.password)
        return None
