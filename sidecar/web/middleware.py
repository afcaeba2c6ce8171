"""Middleware: errors as problems, OPTIONS, common headers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import ClientError, HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from sidecar.web.problems import HEADERS, Problem

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

CUT_SHORT = (ConnectionError, ClientError, HttpProcessingError, web.RequestPayloadError)
"""What aiohttp raises if a client disconnects while its body is read or its answer is written, or if the body is
incomplete."""

log = logging.getLogger("sidecar.web")


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into a problem, and answer OPTIONS.

    204: OPTIONS of a known path, with Allow. 400: a request without an HTTP version. 404: unknown path. 405: unknown
    method, with Allow. 413: body too large. 500: an internal error of the sidecar, with a traceback in its log.
    """
    if request.version < HttpVersion10:  # "GET /", which aiohttp parses as HTTP/0.9
        return Problem(400, close=True).response()
    try:
        return await handler(request)
    except Problem as problem:
        return problem.response()
    except web.HTTPMethodNotAllowed as error:
        allow = ", ".join(sorted({*error.allowed_methods, "OPTIONS"}))
        if request.method == "OPTIONS":
            return web.Response(status=204, headers={"Allow": allow})
        return Problem(405, detail=f"allowed methods: {allow}", headers={"Allow": allow}).response()
    except web.HTTPException as error:
        return Problem(error.status).response()
    except Exception as error:
        if isinstance(error, CUT_SHORT) and request.transport is None:
            return Problem(400, detail="the client disconnected", close=True).response()  # nobody reads it
        log.exception("internal error while answering %s", request.match_info.route.name or request.method)
        return Problem(500, detail="internal error of the sidecar; see its log").response()


def expectation_checked(handler: Answer) -> Answer:
    """Wrap `handler` to answer an unknown `Expect` with 417; aiohttp's own answer would repeat it as plain text."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        expectation = request.headers.get(hdrs.EXPECT, "")
        if expectation.lower() not in ("", "100-continue") and request.version == HttpVersion11:
            return Problem(417).response()
        return await handler(request)

    return answer


async def common_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Set the headers of every answer; a handler's own `Cache-Control` stays."""
    own = response.headers.get("Cache-Control")
    response.headers.update(HEADERS)
    if own:
        response.headers["Cache-Control"] = own
