"""`/bootstrap`: claim and rotate root's password with the admin token. No answer to a GET contains a password."""

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
"""Maximum bytes of a request's body."""
BODY_PATIENCE = 10.0
"""Seconds within which the body must arrive."""


async def bootstrap(request: web.Request) -> web.Response:
    """Return whether root's password can be claimed and until when; once claimed, when and from where.

    200: always. 401: no token, or a wrong one. 403: the client certificate is missing. 429: too many wrong tokens at
    the same time. 503: the admin token is not known yet.
    """
    await _admit(request)
    return web.json_response(serializers.bootstrap(_credentials(request).root_password))


async def claim(request: web.Request) -> web.Response:
    """Claim the generated root password, once.

    200: with the password. 400: the body is incomplete. 401, 429: as above. 403: as above, or sent by a page of
    another origin. 404: no password was generated. 408, 413: the body is too slow, too large. 410: the password was
    claimed (with time and address), has expired, or root's password was changed by other means. 503: devpi-server does
    not run yet, or can't check whether the password is still root's; with Retry-After.
    """
    await _admit(request)
    await _body(request)
    with _problems(request):
        password = await _credentials(request).claim(peer(request))
    return web.json_response({"user": "root", "password": password})


async def rotate(request: web.Request) -> web.Response:
    """Set a new root password and end all logins, unless `keep_logins` is true.

    `keep_logins` is in the query or in a JSON body. 200: with the new password. 400: `keep_logins` is invalid, or the
    body is incomplete. 401, 403, 408, 413, 429: as above. 409: the password can't be rotated here. 503: devpi-server
    does not run yet, or another rotation runs; with Retry-After.
    """
    await _admit(request)
    keep_logins = _keep_logins(request, await _body(request))
    with _problems(request):
        password = await _credentials(request).rotate(peer(request), keep_logins=keep_logins)
    return web.json_response({"user": "root", "password": password})


def _credentials(request: web.Request) -> Credentials:
    return request.app[CONTEXT].of(Credentials)


async def _admit(request: web.Request) -> None:
    """Return if the request is an admin's; 503 before the admin token is known."""
    with _problems(request):
        await request.app[GUARD].admit(request)


@contextlib.contextmanager
def _problems(request: web.Request) -> Iterator[None]:
    """Turn the refusals of `Credentials` into problems; `hint` is what can be done in this role and phase."""
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
            f"the password was claimed at {at} from {error.address or 'an unknown address'}",
            name="already-claimed",
            more={
                "claimed_at": at,
                "claimed_from": error.address,
                "hint": _rotate(request, "if that was not you, or the password is lost"),
            },
        ) from None
    except Expired as error:
        at = rfc3339(error.at)
        raise Problem(
            410,
            "expired",
            f"the password was not claimed before {at}, so it was discarded",
            name="expired",
            more={"expired_at": at, "hint": _rotate(request, "to set a new one")},
        ) from None
    except Superseded:
        raise Problem(
            410,
            "superseded",
            "root's password was changed by other means; the generated one is no longer valid",
            name="superseded",
            more={"hint": _rotate(request, "if the new one is lost")},
        ) from None
    except CannotRotate as error:
        detail = f"{error.reason}; {error.hint}"
        raise Problem(409, "cannot rotate", detail, name="cannot-rotate", more={"hint": error.hint}) from None


def _rotate(request: web.Request, when: str) -> str | None:
    how = password_advice.rotate(_credentials(request).root_password, route=True)
    return None if how is None else f"{when}: {how}"


async def _body(request: web.Request) -> bytes:
    if (request.content_length or 0) > BODY_LIMIT:
        raise Problem(413, detail=f"the body is larger than {BODY_LIMIT} bytes")
    try:
        async with asyncio.timeout(BODY_PATIENCE):
            return await request.read()
    except TimeoutError:
        raise Problem(408, detail=f"the body did not arrive within {BODY_PATIENCE:g} s") from None
    except CUT_SHORT:
        raise Problem(400, detail="the body is incomplete", close=True) from None


def _keep_logins(request: web.Request, body: bytes) -> bool:
    words = {"true": True, "1": True, "false": False, "0": False}
    values: list[object] = [words.get(text.lower()) for text in request.query.getall("keep_logins", ())]
    if body.strip():
        try:
            given = json.loads(body)
        except (ValueError, RecursionError):
            raise Problem(400, detail="the body is not JSON") from None
        if not isinstance(given, dict) or given.keys() - {"keep_logins"}:
            raise Problem(400, detail='the body must be empty or {"keep_logins": true}')
        values += given.values()
    if not all(isinstance(value, bool) for value in values):
        raise Problem(400, detail="keep_logins must be true or false")
    if True in values and False in values:
        raise Problem(400, detail="keep_logins is both true and false")
    return True in values
