"""`/` as a page."""

from __future__ import annotations

from aiohttp import web

from sidecar.web.context import CONTEXT
from sidecar.web.page import assets
from sidecar.web.page.loading import load
from sidecar.web.page.stream import HUB

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
}


async def page(request: web.Request) -> web.Response:
    """Return the state as a page, complete in itself; `/events` keeps it up to date."""
    await load()
    from sidecar.web.page import report

    view = report.view(request.app[CONTEXT])
    text = report.page(view, request.host, epoch=request.app[HUB].epoch, edition=assets.edition())
    return web.Response(text=text, content_type="text/html", headers=_HEADERS)
