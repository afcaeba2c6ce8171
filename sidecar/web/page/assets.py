"""The page's style, script and icon, as files of the package."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from aiohttp import web

_FOLDER = Path(__file__).parent
_KINDS = {"page.css": "text/css", "page.js": "text/javascript", "page.svg": "image/svg+xml"}


async def style(_request: web.Request) -> web.Response:
    """Return the page's style sheet.

    200: always.
    """
    return _answer("page.css")


async def script(_request: web.Request) -> web.Response:
    """Return the page's script.

    200: always.
    """
    return _answer("page.js")


async def icon(_request: web.Request) -> web.Response:
    """Return the page's icon.

    200: always.
    """
    return _answer("page.svg")


@cache
def edition() -> str:
    """Return a digest of the page's files: a page of another edition than its sidecar reloads itself."""
    files = sorted(path for name in ("static", "templates") for path in (_FOLDER / name).iterdir() if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


@cache
def read(name: str) -> bytes:
    """Return the content of a file."""
    return (_FOLDER / "static" / name).read_bytes()


def _answer(name: str) -> web.Response:
    return web.Response(body=read(name), content_type=_KINDS[name], charset="utf-8")
