"""The aiohttp application: all routes, and `GET /`."""

from __future__ import annotations

from aiohttp import web

from sidecar.features.credentials.keeper import Credentials
from sidecar.web import access
from sidecar.web.admin_auth import Guard
from sidecar.web.api import bootstrap, description, probes, status
from sidecar.web.context import CONTEXT, GUARD, Context
from sidecar.web.metrics import exposition
from sidecar.web.metrics.requests import REQUESTS, Requests, counted
from sidecar.web.middleware import common_headers, problems
from sidecar.web.negotiation import wants_html
from sidecar.web.page import assets, route, stream
from sidecar.web.page.stream import HUB, Hub

__all__ = ["ROUTES", "Context", "make_app"]


async def index(request: web.Request) -> web.Response:
    """Show the state as a page to browsers; list all routes to other clients.

    200: always.
    """
    if wants_html(request):
        return await route.page(request)
    lines = [f"{r.method:<5} {r.path:<25} {(r.handler.__doc__ or '').splitlines()[0]}" for r in ROUTES]
    return web.Response(text="\n".join(["devpi-sidecar", "", *lines, ""]), headers={"Vary": "Accept"})


ROUTES = (
    web.get("/", index),
    web.get("/page.css", assets.style),
    web.get("/page.js", assets.script),
    web.get("/page.svg", assets.icon),
    web.get("/events", stream.events),
    web.get("/livez", probes.livez),
    web.get("/startupz", probes.startupz),
    web.get("/readyz", probes.readyz),
    web.get("/readyz/{check}", probes.readyz_check),
    web.get("/health", probes.health),
    web.get("/status", status.status),
    web.get("/metrics", exposition.metrics),
    web.get("/bootstrap", bootstrap.bootstrap),
    web.post("/bootstrap/root-password", bootstrap.claim),
    web.post("/bootstrap/rotate", bootstrap.rotate),
    web.get("/openapi.json", description.openapi),
    web.get("/docs", description.docs),
)
"""All routes; each handler's docstring lists its status codes. HEAD is supported where GET is."""


def make_app(context: Context) -> web.Application:
    """Return the application."""
    app = web.Application(middlewares=[counted, access.identify, problems], client_max_size=bootstrap.BODY_LIMIT)
    app[CONTEXT] = context
    guard = app[GUARD] = Guard(context.of(Credentials).token_ok, client_certificates=context.client_certificates)
    requests = app[REQUESTS] = Requests()
    app[exposition.EXPOSITION] = exposition.Exposition(context, guard, requests)
    hub = app[HUB] = Hub(context)
    app.on_response_prepare.append(common_headers)
    app.on_response_prepare.append(access.echo)
    app.on_shutdown.append(lambda _app: hub.close())
    app.add_routes(ROUTES)
    return app
