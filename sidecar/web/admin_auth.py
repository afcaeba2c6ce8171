"""Who may use the admin routes: the bearer of the admin token. Guessing it is slow, counted, and seen in the log."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from aiohttp import web

from sidecar.core.lifecycle import now
from sidecar.core.parsers import TOKEN_MAX
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
HELD_BACK = 32
"""Answers that are held back at the same time, where nothing else bounds them, …"""
HELD_BACK_OF_ONE = 8
"""… of them for one source; beyond either a wrong token gets 429 at once, and its connection is closed."""
_PORTS = {"http": 80, "https": 443}
_PROTO = "X-Forwarded-Proto"
SILENCE = 10.0
"""Seconds between two log lines about wrong tokens, however many come, from however many sources."""


@dataclass(frozen=True, slots=True)
class Rejections:
    """What has come of wrong tokens so far."""

    wrong: int = 0
    """All of them."""
    turned_away: int = 0
    """Of them, those that got 429: too many at once."""
    last: datetime | None = None


class Guard:
    """Lets admins through. A right token is never delayed, whatever others do, and wherever it comes from: it is looked
    at before anything else is, so nobody can lock an admin out.
    """

    def __init__(
        self,
        token_ok: Callable[[bytes], bool],
        clock: Callable[[], float] = time.monotonic,
        *,
        client_certificates: bool = False,
    ) -> None:
        """`client_certificates`: an admin has one, unless it is in this container."""
        self.most = HELD_BACK
        self.rejections = Rejections()
        self.without_guess = dict.fromkeys(("no_token", "no_certificate", "other_origin"), 0)
        """Reason → requests that were turned away for it, and not for a wrong token."""
        self._token_ok = token_ok
        self._clock = clock
        self._client_certificates = client_certificates
        self._delays: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Source → last delay, and when that was."""
        self._held_back: Counter[str] = Counter()
        """Source → answers that are held back for it now."""
        self._reported = -SILENCE

    async def admit(self, request: web.Request) -> None:
        """Return for an admin, before a byte of the body is read; else raise a `Problem`.

        401: no token, or a wrong one. 429: too many wrong ones at the same time. 403: a page of another
        origin made a browser send this, or the client certificate is missing.
        """
        if self._client_certificates and not _certified(request):
            self.without_guess["no_certificate"] += 1
            raise Problem(403, detail="this takes a client certificate by a CA in SIDECAR_TLS_CLIENT_CA")
        given = request.headers.getall("Authorization", [])
        if not given:
            self.without_guess["no_token"] += 1
            raise _unauthorized("an admin token is needed")
        token = _bearer_token(given)
        if token is None or not self._token_ok(token):
            await self._reject(_network(peer(request)))
        if request.method == "POST" and _cross_origin(request):
            self.without_guess["other_origin"] += 1
            raise Problem(403, detail="Origin is not this server: no page of another site may do this")

    async def _reject(self, source: str) -> None:
        delay = self._next_delay(source)
        too_many = self._held_back[source] >= HELD_BACK_OF_ONE or self._held_back.total() >= self.most
        before = self.rejections
        self.rejections = Rejections(before.wrong + 1, before.turned_away + too_many, now())
        if self._clock() - self._reported >= SILENCE:
            self._reported = self._clock()
            log.warning("wrong admin token from %s (%d wrong ones so far)", source, self.rejections.wrong)
        if too_many:
            detail = "too many wrong admin tokens at once"
            raise Problem(429, detail=detail, headers={"Retry-After": str(math.ceil(delay))}, close=True)
        self._held_back[source] += 1
        try:
            await asyncio.sleep(delay)
        finally:
            self._held_back[source] -= 1
            self._held_back += Counter()  # forgets who has none
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
    if _is_local(name):
        return "localhost"
    if not isinstance(name, tuple):
        return "unknown"
    return str(name[0]).removeprefix("::ffff:")


def _is_local(name: object) -> bool:
    """Whether this is the other end of the Unix socket in the runtime directory, which is closed to other users."""
    return isinstance(name, (str, bytes))


def _certified(request: web.Request) -> bool:
    """Whether the client has shown a certificate, which the handshake has verified; in here nobody needs one."""
    if (transport := request.transport) is None:
        return False
    return bool(transport.get_extra_info("peercert")) or _is_local(transport.get_extra_info("peername"))


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
    """Whether this may come from a page of another origin: whatever is unclear does. No browser leaves Origin out."""
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
    """The schemes by which a browser may have come here: behind a proxy, by the one that this says, or by either."""
    if request.secure:
        return frozenset({"https"})
    said = {each.strip().lower() for each in ",".join(request.headers.getall(_PROTO, [])).split(",")} - {""}
    return frozenset(_PORTS) & said if said else frozenset(_PORTS)


def _with_port(scheme: str, host: str) -> str:
    """Browsers leave a scheme's own port out."""
    return host.removesuffix(f":{_PORTS[scheme]}")


def _unauthorized(detail: str) -> Problem:
    return Problem(401, detail=detail, headers={"WWW-Authenticate": 'Bearer realm="devpi-sidecar"'})
