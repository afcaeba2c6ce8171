"""Who may use the admin routes: the bearer of the admin token. Guessing it is slow, and seen in the log."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from aiohttp import web

from sidecar.values import TOKEN_MAX
from sidecar.web.problems import Problem

log = logging.getLogger("sidecar.web")

FIRST_DELAY = 0.1
"""Seconds that the answer to a first wrong token is held back; doubled for each further one, …"""
LONGEST_DELAY = 2.0
"""… up to this, and halved again …"""
HALF_LIFE = 10.0
"""… for every so many seconds without one."""
SOURCES = 1024
"""Sources that are remembered; the longest unheard one is forgotten first."""
HELD_BACK = 64
"""Answers that are held back at the same time; beyond that a wrong token gets 429 at once."""


class Guard:
    """Lets admins through. A right token is never delayed, whatever others do."""

    def __init__(self, token_ok: Callable[[bytes], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self.rejected = 0
        """Wrong tokens so far."""
        self._token_ok = token_ok
        self._clock = clock
        self._delays: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Source → last delay, and when that was."""
        self._held_back = 0

    async def admit(self, request: web.Request) -> None:
        """Return for an admin, before a byte of the body is read; else raise a `Problem`.

        401: no token, or a wrong one. 429: too many wrong ones at the same time. 403: a page of another
        origin made a browser send this.
        """
        given = request.headers.getall("Authorization", [])
        if not given:
            raise _unauthorized("an admin token is needed")
        token = _bearer_token(given)
        if token is None or not self._token_ok(token):
            await self._reject(peer(request))
        if request.method == "POST" and _cross_origin(request):
            raise Problem(403, detail="Origin and Host differ: no page of another site may do this")

    async def _reject(self, source: str) -> None:
        self.rejected += 1
        delay = self._next_delay(_network(source))
        if delay == FIRST_DELAY:
            log.warning("wrong admin token from %s (%d wrong ones so far)", source, self.rejected)
        if self._held_back >= HELD_BACK:
            raise Problem(429, detail="too many wrong admin tokens", headers={"Retry-After": "2"})
        self._held_back += 1
        try:
            await asyncio.sleep(delay)
        finally:
            self._held_back -= 1
        raise _unauthorized("the admin token is wrong")

    def _next_delay(self, source: str) -> float:
        at = self._clock()
        last, when = self._delays.pop(source, (0.0, at))
        calmed = last * math.exp2((when - at) / HALF_LIFE)
        delay = min(LONGEST_DELAY, max(FIRST_DELAY, 2 * calmed))
        self._delays[source] = delay, at
        if len(self._delays) > SOURCES:
            self._delays.popitem(last=False)
        return delay


def peer(request: web.Request) -> str:
    """The address at the other end of the connection; what X-Forwarded-For says anybody can write."""
    name = request.transport.get_extra_info("peername") if request.transport else None
    if not isinstance(name, tuple):
        return "unknown"
    return str(name[0]).removeprefix("::ffff:")


def _network(address: str) -> str:
    """Who shares a delay: an IPv4 address, or an IPv6 /64, of which one host has all addresses."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    return address if ip.version == 4 else str(ipaddress.ip_network((int(ip) >> 64 << 64, 64)))


def _bearer_token(given: list[str]) -> bytes | None:
    """The token as the bytes that came over the wire; None: there is no such thing."""
    if len(given) != 1:
        return None
    scheme, _, token = given[0].partition(" ")
    raw = token.strip(" ").encode("utf-8", "surrogateescape")  # as aiohttp decoded it
    return raw if scheme.lower() == "bearer" and 0 < len(raw) <= TOKEN_MAX else None


def _cross_origin(request: web.Request) -> bool:
    origin = request.headers.get("Origin")
    return origin is not None and origin.partition("://")[2].lower() != request.headers.get("Host", "").lower()


def _unauthorized(detail: str) -> Problem:
    return Problem(401, detail=detail, headers={"WWW-Authenticate": 'Bearer realm="devpi-sidecar"'})
