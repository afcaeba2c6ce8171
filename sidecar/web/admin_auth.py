"""Who may use the admin routes: a client with the admin token. Wrong tokens are delayed, counted and logged."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from aiohttp import web

from sidecar.core.lifecycle import now
from sidecar.core.parsers import TOKEN_MAX
from sidecar.web.problems import Problem

log = logging.getLogger("sidecar.web")

DELAY = 1.0
"""Seconds before a wrong token is answered: it slows down a script with an old token. The token's length, not this
delay, protects against guessing."""
HELD_BACK = 32
"""Maximum number of answers that are delayed at the same time; beyond it, a wrong token gets 429 at once, and its
connection is closed."""
SILENCE = 10.0
"""Minimum seconds between two log lines about wrong tokens."""
_PORTS = {"http": 80, "https": 443}
_PROTO = "X-Forwarded-Proto"


@dataclass(frozen=True, slots=True)
class Rejections:
    """Wrong tokens so far."""

    wrong: int = 0
    """All of them."""
    turned_away: int = 0
    """Those that got 429."""
    last: datetime | None = None


class Guard:
    """Admits clients with the admin token.

    The token is checked first and a right one is never delayed, so no number of wrong ones locks an operator out.
    """

    def __init__(
        self,
        token_ok: Callable[[bytes], bool],
        clock: Callable[[], float] = time.monotonic,
        *,
        client_certificates: bool = False,
    ) -> None:
        """`token_ok` compares in constant time; `client_certificates`: require one, except inside this container."""
        self.most = HELD_BACK
        self.rejections = Rejections()
        self.without_guess = dict.fromkeys(("no_token", "no_certificate", "other_origin"), 0)
        """Reason → requests rejected for another reason than a wrong token."""
        self._token_ok = token_ok
        self._clock = clock
        self._client_certificates = client_certificates
        self._held_back = 0
        self._reported = -SILENCE

    async def admit(self, request: web.Request) -> None:
        """Return if the request is an admin's, before reading any of its body; raise `Problem` otherwise.

        401: no token, or a wrong one. 429: too many wrong ones at the same time. 403: a page of another
        origin sent this, or the client certificate is missing.
        """
        if self._client_certificates and not _certified(request):
            self.without_guess["no_certificate"] += 1
            raise Problem(403, detail="a client certificate by a CA in SIDECAR_TLS_CLIENT_CA is required")
        given = request.headers.getall("Authorization", [])
        if not given:
            self.without_guess["no_token"] += 1
            raise _unauthorized("an admin token is required")
        token = _bearer_token(given)
        if token is None or not self._token_ok(token):
            await self._reject(peer(request))
        if request.method == "POST" and _cross_origin(request):
            self.without_guess["other_origin"] += 1
            raise Problem(403, detail="Origin is not this server: pages of other sites are rejected")

    async def _reject(self, source: str) -> None:
        too_many = self._held_back >= self.most
        before = self.rejections
        self.rejections = Rejections(before.wrong + 1, before.turned_away + too_many, now())
        if self._clock() - self._reported >= SILENCE:
            self._reported = self._clock()
            log.warning("wrong admin token from %s (%d so far)", source, self.rejections.wrong)
        if too_many:
            detail = "too many wrong admin tokens at once"
            raise Problem(429, detail=detail, headers={"Retry-After": str(math.ceil(DELAY))}, close=True)
        self._held_back += 1
        try:
            await asyncio.sleep(DELAY)
        finally:
            self._held_back -= 1
        raise _unauthorized("the admin token is wrong")


def peer(request: web.Request) -> str:
    """Return the address of the connection's other end; `X-Forwarded-For` is ignored, because any client can set it."""
    name = request.transport.get_extra_info("peername") if request.transport else None
    if _is_local(name):
        return "localhost"
    if not isinstance(name, tuple):
        return "unknown"
    return str(name[0]).removeprefix("::ffff:")


def _is_local(name: object) -> bool:
    """Whether a peer name is of the Unix socket in the runtime directory, which only this user can open."""
    return isinstance(name, (str, bytes))


def _certified(request: web.Request) -> bool:
    """Whether the client has a certificate, which the handshake has verified, or is inside this container."""
    if (transport := request.transport) is None:
        return False
    return bool(transport.get_extra_info("peercert")) or _is_local(transport.get_extra_info("peername"))


def _bearer_token(given: list[str]) -> bytes | None:
    """Return the bearer token as the bytes that were sent; None: there is none."""
    if len(given) != 1:
        return None
    scheme, _, token = given[0].partition(" ")
    raw = token.strip(" ").encode("utf-8", "surrogateescape")  # as aiohttp decoded it
    return raw if scheme.lower() == "bearer" and 0 < len(raw) <= TOKEN_MAX else None


def _cross_origin(request: web.Request) -> bool:
    """Whether a page of another origin may have sent this; if unclear, yes. Browsers send `Origin` with every POST."""
    origins, hosts = request.headers.getall("Origin", []), request.headers.getall("Host", [])
    if not origins:
        return False
    if len(origins) != 1 or len(hosts) != 1:
        return True
    scheme, _, host = origins[0].lower().partition("://")
    if scheme not in _schemes(request) or not host:
        return True
    return _with_port(scheme, host) != _with_port(scheme, hosts[0].lower())


def _schemes(request: web.Request) -> frozenset[str]:
    """Return the schemes that a browser may have used: behind a proxy, the one in `X-Forwarded-Proto`, or either."""
    if request.secure:
        return frozenset({"https"})
    said = {each.strip().lower() for each in ",".join(request.headers.getall(_PROTO, [])).split(",")} - {""}
    return frozenset(_PORTS) & said if said else frozenset(_PORTS)


def _with_port(scheme: str, host: str) -> str:
    """Return `host` without the scheme's default port, which browsers omit."""
    return host.removesuffix(f":{_PORTS[scheme]}")


def _unauthorized(detail: str) -> Problem:
    return Problem(401, detail=detail, headers={"WWW-Authenticate": 'Bearer realm="devpi-sidecar"'})
