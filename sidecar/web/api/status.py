"""`/status`: the whole story, for people and programs that want more than ready or not."""

from __future__ import annotations

from aiohttp import web

from sidecar.features.health.monitor import Health
from sidecar.web import serializers
from sidecar.web.context import CONTEXT, GUARD


async def status(request: web.Request) -> web.Response:
    """Name, phase, versions, the import in full, the state of root's password, and numbers.

    200: always.
    """
    context = request.app[CONTEXT]
    said = context.of(Health).server_status()
    rejections = request.app[GUARD].rejections
    of = serializers.status(context.lifecycle.snapshot, said, context.sidecar_version, rejections, context.name)
    for feature in context.features:
        of |= feature.status()
    return web.json_response(of)
