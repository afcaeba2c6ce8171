"""`/bootstrap`: what an operator does with the admin token. No answer to a GET has a password."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Iterator

from aiohttp import web

from sidecar.core.public import rfc3339
from sidecar.features.credentials import password_advice
from sidecar.features.credentials.keeper import Credentials
from sidecar.features.credentials.refusals import (
    AlreadyClaimed,
    CannotRotate,
    Expired,
    NothingToClaim,
    NotRunning,
    NotYet,
    Superseded,
)
from sidecar.web import serializers
from sidecar.web.admin_auth import peer
from sidecar.web.context import CONTEXT, GUARD
from sidecar.web.middleware import CUT_SHORT
from sidecar.web.problems import Problem

BODY_LIMIT = 4096
"""Bytes of a request's body."""
BODY_PATIENCE = 10.0
"""Seconds in which it must have come."""


async def bootstrap(request: web.Request) -> web.Response:
    """What there is to claim, until when; when it was claimed, and from where.

    200: always. 401: no token, or a wrong one. 403: the client certificate is missing. 429: too many wrong
    tokens at once. 503: the admin token is not known yet.
    """
    await _admit(request)
    return web.json_response(serializers.bootstrap(_credentials(request).root_password))


async def claim(request: web.Request) -> web.Response:
    """Take the generated root password, once.

    200: with the password. 400: the body does not come whole. 401, 429: as above. 403: as above, or sent by a page of
    another origin. 404: none was generated. 408, 413: the body is too slow, too large. 410: it was claimed, with when
    and from where, or it has expired, or root's password was changed in another way. 503: devpi-server does not run
    yet, or doesn't say whether the password is still root's; with Retry-After.
    """
    await _admit(request)
    await _body(request)
    with _problems(request):
        password = await _credentials(request).claim(peer(request))
    return web.json_response({"user": "root", "password": password})


async def rotate(request: web.Request) -> web.Response:
    """Give root a new password, and end all logins unless `keep_logins` is true, in the query or as JSON.

    200: with the new password. 400: `keep_logins` can't be read, or the body does not come whole. 401, 403, 408, 413,
    429: as above. 409: it can't be rotated here. 503: devpi-server does not run yet, or another rotation does, with
    Retry-After.
    """
    await _admit(request)
    keep_logins = _keep_logins(request, await _body(request))
    with _problems(request):
        password = await _credentials(request).rotate(peer(request), keep_logins=keep_logins)
    return web.json_response({"user": "root", "password": password})


def _credentials(request: web.Request) -> Credentials:
    return request.app[CONTEXT].of(Credentials)


async def _admit(request: web.Request) -> None:
    """Return for an admin; before the admin token is known, nobody is one: 503."""
    with _problems(request):
        await request.app[GUARD].admit(request)


@contextlib.contextmanager
def _problems(request: web.Request) -> Iterator[None]:
    """Word what the domain refuses; `hint` is what can be done instead, here and now."""
    try:
        yield
    except NotYet as error:
        after = str(max(1, math.ceil(error.retry_after)))
        raise Problem(503, "not yet", error.reason, name="not-yet", headers={"Retry-After": after}) from None
    except NotRunning as error:
        raise Problem(503, "not running", error.reason, name="not-running") from None
    except NothingToClaim as error:
        more = {"hint": password_advice.root_password(_credentials(request).root_password)}
        raise Problem(404, "nothing to claim", error.reason, name="nothing-to-claim", more=more) from None
    except AlreadyClaimed as error:
        at = rfc3339(error.at)
        raise Problem(
            410,
            "already claimed",
            f"somebody took the password at {at}, from {error.address or 'an unknown address'}",
            name="already-claimed",
            more={
                "claimed_at": at,
                "claimed_from": error.address,
                "hint": _rotate(request, "if that was not you, or it is lost"),
            },
        ) from None
    except Expired as error:
        at = rfc3339(error.at)
        raise Problem(
            410,
            "expired",
            f"nobody claimed the password until {at}, and it was thrown away",
            name="expired",
            more={"expired_at": at, "hint": _rotate(request, "to set a new one")},
        ) from None
    except Superseded:
        raise Problem(
            410,
            "superseded",
            "root's password was changed in another way, the generated one is not root's any more",
            name="superseded",
            more={"hint": _rotate(request, "if nobody knows the new one")},
        ) from None
    except CannotRotate as error:
        detail = f"{error.reason}; {error.hint}"
        raise Problem(409, "cannot rotate", detail, name="cannot-rotate", more={"hint": error.hint}) from None


def _rotate(request: web.Request, when: str) -> str | None:
    how = password_advice.rotate(_credentials(request).root_password, route=True)
    return None if how is None else f"{when}: {how}"


async def _body(request: web.Request) -> bytes:
    if (request.content_length or 0) > BODY_LIMIT:
        raise Problem(413, detail=f"the body may have {BODY_LIMIT} bytes")
    try:
        async with asyncio.timeout(BODY_PATIENCE):
            return await request.read()
    except TimeoutError:
        raise Problem(408, detail=f"the body did not come within {BODY_PATIENCE:g} s") from None
    except CUT_SHORT:
        raise Problem(400, detail="the body did not come whole", close=True) from None


def _keep_logins(request: web.Request, body: bytes) -> bool:
    values = {"true": True, "1": True, "false": False, "0": False}
    said: list[object] = [values.get(text.lower()) for text in request.query.getall("keep_logins", ())]
    if body.strip():
        try:
            given = json.loads(body)
        except (ValueError, RecursionError):
            raise Problem(400, detail="the body is not JSON") from None
        if not isinstance(given, dict) or given.keys() - {"keep_logins"}:
            raise Problem(400, detail='the body may be {"keep_logins": true}, or empty')
        said += given.values()
    if not all(isinstance(value, bool) for value in said):
        raise Problem(400, detail="keep_logins is neither true nor false")
    if True in said and False in said:
        raise Problem(400, detail="keep_logins is said to be both true and false")
    return True in said
