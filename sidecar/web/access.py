"""Each of the sidecar's requests gets its id; and, if wanted, a line of its own in the log."""

from __future__ import annotations

import logging
import secrets
import time

from aiohttp import web
from aiohttp.typedefs import Handler

from sidecar.core.request_id import HEADER, REQUEST_ID, is_sane
from sidecar.web.admin_auth import peer

log = logging.getLogger("sidecar.access")
"""`core.logging.configure` decides whether anybody hears it."""

_ID = web.RequestKey("request_id", str)


@web.middleware
async def identify(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Take the id that a client or a proxy gave, if it is one that can't do harm in a log; else make one."""
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
            _tell(request, status, time.perf_counter_ns() - began)
        REQUEST_ID.reset(token)


async def echo(request: web.Request, response: web.StreamResponse) -> None:
    """Say the id in the answer."""
    if _ID in request:
        response.headers[HEADER] = request[_ID]


def _tell(request: web.Request, status: int | None, nanoseconds: int) -> None:
    """Of the path only the route is told: what is behind it, anybody may choose."""
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "(none)"
    fields = {
        "http.request.method": request.method,
        "sidecar.route": route,
        "http.response.status_code": status,
        "event.duration": nanoseconds,
        "client.ip": peer(request),
    }
    said = request.method, route, status or "cut off", nanoseconds / 1e6, fields["client.ip"]
    log.info("%s %s: %s in %.1f ms, from %s", *said, extra={"fields": fields})
