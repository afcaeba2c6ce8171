"""Request IDs, and the optional access log, of the sidecar's own port."""

from __future__ import annotations

import logging
import secrets
import time

from aiohttp import web
from aiohttp.typedefs import Handler

from sidecar.core.request_id import HEADER, REQUEST_ID, is_sane
from sidecar.web.admin_auth import peer

log = logging.getLogger("sidecar.access")
"""`core.logging.configure` enables or disables it."""

_ID = web.RequestKey("request_id", str)


@web.middleware
async def identify(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Take over the request's ID if it is harmless in a log, otherwise make one; log the request."""
    given = request.headers.get(HEADER, "")
    request[_ID] = given if is_sane(given) else secrets.token_hex(8)
    token = REQUEST_ID.set(request[_ID])
    began = time.perf_counter_ns()
    status: int | None = None
    try:
        response = await handler(request)
        status = response.status
        return response
    finally:
        if log.isEnabledFor(logging.INFO):
            _log(request, status, time.perf_counter_ns() - began)
        REQUEST_ID.reset(token)


async def echo(request: web.Request, response: web.StreamResponse) -> None:
    """Send the ID with the answer."""
    if _ID in request:
        response.headers[HEADER] = request[_ID]


def _log(request: web.Request, status: int | None, nanoseconds: int) -> None:
    """Log a request by its route, because any client can choose the path."""
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "(none)"
    fields = {
        "http.request.method": request.method,
        "sidecar.route": route,
        "http.response.status_code": status,
        "event.duration": nanoseconds,
        "client.ip": peer(request),
    }
    values = request.method, route, status or "cut off", nanoseconds / 1e6, fields["client.ip"]
    log.info("%s %s: %s in %.1f ms, from %s", *values, extra={"fields": fields})
