"""`/status`: everything that anybody may know about this instance."""

from __future__ import annotations

from aiohttp import web

from sidecar.features.health.monitor import Health
from sidecar.web import serializers
from sidecar.web.context import CONTEXT, GUARD


async def status(request: web.Request) -> web.Response:
    """Return name, phase, versions, import, state of root's password, and numbers.

    200: always.
    """
    context = request.app[CONTEXT]
    server = context.of(Health).server_status()
    rejections = request.app[GUARD].rejections
    body = serializers.status(context.lifecycle.snapshot, server, context.sidecar_version, rejections, context.name)
    for feature in context.features:
        body |= feature.status()
    return web.json_response(body)
