"""What every request and every answer goes through."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from aiohttp import ClientError, HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from sidecar.web.problems import HEADERS, Problem

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

CUT_SHORT = (ConnectionError, ClientError, HttpProcessingError, web.RequestPayloadError)
"""What aiohttp raises where a client goes while its body is read or its answer is written, or sends no whole body."""

log = logging.getLogger("sidecar.web")


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Word every error as a problem, and answer OPTIONS.

    204: OPTIONS of a known path, with Allow; 400: a request without an HTTP version; 404: unknown path; 405: unknown
    method, with Allow; 413: body too large; 500: an error of the sidecar's own, which is in its log.
    """
    if request.version < HttpVersion10:  # "GET /", which aiohttp takes for HTTP/0.9
        return Problem(400, close=True).response()
    try:
        return await handler(request)
    except Problem as problem:
        return problem.response()
    except web.HTTPMethodNotAllowed as error:
        allow = ", ".join(sorted({*error.allowed_methods, "OPTIONS"}))
        if request.method == "OPTIONS":
            return web.Response(status=204, headers={"Allow": allow})
        return Problem(405, detail=f"this path takes {allow}", headers={"Allow": allow}).response()
    except web.HTTPException as error:
        return Problem(error.status).response()
    except Exception as error:
        if isinstance(error, CUT_SHORT) and request.transport is None:
            return Problem(400, detail="the client has gone", close=True).response()  # nobody reads it
        log.exception("internal error while answering %s", request.match_info.route.name or request.method)
        return Problem(500, detail="an error of the sidecar's own, see its log").response()


def expectation_checked(handler: Answer) -> Answer:
    """The app's `handler`, and 417 to an odd `Expect`: aiohttp's refusal repeats it as text, which it may not be."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        expectation = request.headers.get(hdrs.EXPECT, "")
        if expectation.lower() not in ("", "100-continue") and request.version == HttpVersion11:
            return Problem(417).response()
        return await handler(request)

    return answer


async def common_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Set the headers of every answer; a handler may have its own word on caching."""
    own = response.headers.get("Cache-Control")
    response.headers.update(HEADERS)
    if own:
        response.headers["Cache-Control"] = own
