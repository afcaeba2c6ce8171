"""`/openapi.json` and `/docs`: the description of the API, for programs and for people.

Both are imported and composed with the first request, so they cost the start nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from functools import lru_cache

from aiohttp import web

from sidecar.web.context import CONTEXT, Context
from sidecar.web.page import assets


async def openapi(request: web.Request) -> web.Response:
    """Return the description of this API in OpenAPI 3.1.

    200: always, except 304: `If-None-Match` has the current ETag.
    """
    return _unless_known(request, _document(*_depends_on(request.app[CONTEXT])), "application/json")


async def docs(request: web.Request) -> web.Response:
    """Show the description of this API as a page.

    200: always, except 304: `If-None-Match` has the current ETag.
    """
    from sidecar.web.openapi.page import POLICY

    context = request.app[CONTEXT]
    page = await asyncio.to_thread(_page, context.name, *_depends_on(context))
    response = _unless_known(request, page, "text/html")
    response.headers["Content-Security-Policy"] = POLICY
    return response


_Checks = tuple[tuple[str, bool], ...]


def _depends_on(context: Context) -> tuple[str, _Checks, bool]:
    """Return everything that the description depends on."""
    checks = tuple((check.name, check.gates) for check in context.board.checks())
    return context.sidecar_version, checks, context.client_certificates


@lru_cache(maxsize=1)
def _document(version: str, checks: _Checks, client_certificates: bool) -> bytes:
    from sidecar.web.openapi.document import compose

    document = compose(version, dict(checks), client_certificates=client_certificates)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


@lru_cache(maxsize=1)
def _page(name: str, version: str, checks: _Checks, client_certificates: bool) -> bytes:
    from sidecar.web.openapi.page import page

    document = json.loads(_document(version, checks, client_certificates))
    return page(document, name, assets.edition()).encode()


def _unless_known(request: web.Request, body: bytes, kind: str) -> web.Response:
    etag = hashlib.sha256(body).hexdigest()[:16]
    known = any(each.value in {etag, "*"} for each in request.if_none_match or ())
    response = web.Response(status=304) if known else web.Response(body=body, content_type=kind, charset="utf-8")
    response.headers["Cache-Control"] = "no-cache"
    response.etag = etag
    return response
