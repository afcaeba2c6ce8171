"""The HTTP app that tells probes, compose and operators what is going on."""

from __future__ import annotations

from aiohttp import web

from sidecar.web import access, assets, bootstrap, description, events, metrics, page, probes, status
from sidecar.web.accept import wants_html
from sidecar.web.events import HUB, Hub
from sidecar.web.guard import Guard
from sidecar.web.keys import CONTEXT, GUARD, Context
from sidecar.web.middleware import common_headers, problems
from sidecar.web.requests import REQUESTS, Requests, counted

__all__ = ["ROUTES", "Context", "make_app"]


async def index(request: web.Request) -> web.Response:
    """How it is, as a page for browsers; else this list.

    200: always.
    """
    if wants_html(request):
        return page.page(request)
    lines = [f"{r.method:<5} {r.path:<25} {(r.handler.__doc__ or '').splitlines()[0]}" for r in ROUTES]
    return web.Response(text="\n".join(["devpi-sidecar", "", *lines, ""]), headers={"Vary": "Accept"})


ROUTES = (
    web.get("/", index),
    web.get("/page.css", assets.style),
    web.get("/page.js", assets.script),
    web.get("/page.svg", assets.icon),
    web.get("/events", events.events),
    web.get("/livez", probes.livez),
    web.get("/startupz", probes.startupz),
    web.get("/readyz", probes.readyz),
    web.get("/readyz/{check}", probes.readyz_check),
    web.get("/health", probes.health),
    web.get("/status", status.status),
    web.get("/metrics", metrics.metrics),
    web.get("/bootstrap", bootstrap.bootstrap),
    web.post("/bootstrap/root-password", bootstrap.claim),
    web.post("/bootstrap/rotate", bootstrap.rotate),
    web.get("/openapi.json", description.openapi),
    web.get("/docs", description.docs),
)
"""Every path there is; each handler's docstring tells its status codes. HEAD works where GET does."""


def make_app(context: Context) -> web.Application:
    """The app on `context`."""
    app = web.Application(middlewares=[counted, access.identify, problems], client_max_size=bootstrap.BODY_LIMIT)
    app[CONTEXT] = context
    guard = app[GUARD] = Guard(context.bootstrap.token_ok, client_certificates=context.client_certificates)
    requests = app[REQUESTS] = Requests()
    app[metrics.EXPOSITION] = metrics.Exposition(context, guard, requests)
    hub = app[HUB] = Hub(context)
    app.on_response_prepare.append(common_headers)
    app.on_response_prepare.append(access.echo)
    app.on_shutdown.append(lambda _app: hub.close())
    app.add_routes(ROUTES)
    return app
