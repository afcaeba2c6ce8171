"""The page's frame, style, script and icon, as files of the package."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from aiohttp import web

_FOLDER = Path(__file__).parent / "static"
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
    """Stands for all of them: a page that has others than its sidecar loads itself anew."""
    return hashlib.sha256(b"".join(map(read, sorted([*_KINDS, "page.html"])))).hexdigest()[:12]


@cache
def read(name: str) -> bytes:
    """The content of a file."""
    return (_FOLDER / name).read_bytes()


def _answer(name: str) -> web.Response:
    return web.Response(body=read(name), content_type=_KINDS[name], charset="utf-8")
