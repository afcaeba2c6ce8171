"""`/status`: the whole story, for people and programs that want more than ready or not."""

from __future__ import annotations

from aiohttp import web

from sidecar.web import shapes
from sidecar.web.keys import CONTEXT, GUARD


async def status(request: web.Request) -> web.Response:
    """Phase, versions, the import in full, and the state of root's password.

    200: always.
    """
    context = request.app[CONTEXT]
    said = context.health.server_status()
    rejections = request.app[GUARD].rejections
    return web.json_response(shapes.status(context.lifecycle.snapshot, said, context.sidecar_version, rejections))
