"""One request with its redirects: each hop is checked, and gets only what it may get."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from devpi_server import __version__ as devpi_version

from sidecar.worker.upstream import lookup
from sidecar.worker.upstream.addresses import AddressPolicy
from sidecar.worker.upstream.breaker import Breaker
from sidecar.worker.upstream.causes import Cause, UpstreamFault, printable
from sidecar.worker.upstream.origins import Credentials, authority, origin, without_userinfo
from sidecar.worker.upstream.streams import async_drain, drain
from sidecar.worker.upstream.transport import AsyncPinnedTransport, PinnedTransport, Proxies
from sidecar.worker.upstream.trust import client_context

REDIRECTS = 5
"""Redirects that are followed."""
CONNECT_SECONDS = 5.0
"""For a name's resolution, and again for the connection, and again for TLS."""
_CLOSE_SECONDS = 2.0


@dataclass
class Attempt:
    """One request, with its redirects."""

    url: httpx.URL
    breaker: Breaker | None
    foreign: bool
    """To another origin than the index's."""
    setting: str
    began: float = field(default_factory=time.monotonic)
    proxy: str | None = None
    """The variable of the proxy of the last hop."""
    host: str = "the upstream"
    """Host and port of the last hop."""
    status: int | None = None
    history: list[httpx.Response] = field(default_factory=list)


class Sender:
    """Sends the requests of one mirror by persistent connections. Thread-safe."""

    def __init__(
        self,
        index: str,
        url: httpx.URL,
        settings: Mapping[str, Any],
        timeout: float,
        resolver: Callable[[str], Sequence[str]],
    ) -> None:
        """`url`: the index's, may have user and password; `settings`: `Serve.mirror`; `timeout`: seconds of a read."""
        self._timeout = timeout
        user, password = settings.get("user"), settings.get("password")
        if index != "root/pypi" or origin(httpx.URL(settings.get("url") or "")) != origin(url):
            user = password = None  # they are for the upstream that was set with them
        self._credentials = Credentials(url, user, password)
        self._policy = AddressPolicy(url.host, settings.get("allow") or (), resolver)
        self._lookup = lookup.Lookup(self._policy, resolver)
        self._context = client_context(settings.get("ca"))
        self._proxies = Proxies()
        self._headers = {
            "User-Agent": f"devpi-server/{devpi_version} (py{sys.version.split()[0]}; {sys.platform})",
            "Accept": "*/*",
        }
        self._lock = threading.Lock()
        self._transports: dict[str | None, PinnedTransport] = {}
        self._async_transports: dict[str | None, AsyncPinnedTransport] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            transports, self._transports = list(self._transports.values()), {}
            async_transports, self._async_transports = list(self._async_transports.values()), {}
            loop = self._loop
        for transport in transports:
            transport.close()
        if loop is not None and loop.is_running():
            for each in async_transports:
                closing = asyncio.run_coroutine_threadsafe(each.aclose(), loop)
                with contextlib.suppress(Exception):  # a loop that is stopping, or a peer that does not end TLS
                    closing.result(_CLOSE_SECONDS)

    def _request(
        self,
        attempt: Attempt,
        url: httpx.URL,
        method: str,
        given: Mapping[str, str] | None,
        timeout: float | None,
        encoding: str,
    ) -> tuple[httpx.Request, httpx.Proxy | None]:
        """Return the request of one hop. Raises UpstreamFault."""
        redirected = bool(attempt.history)
        if url.scheme not in ("http", "https") or not url.host:
            where = "redirects to" if redirected else "is at"
            reason = f"the upstream {where} a URL of the scheme {printable(url.scheme) or '(none)'}"
            raise UpstreamFault(Cause("forbidden", reason, "only http and https are supported"))
        attempt.host = printable(authority(url))
        attempt.proxy = None
        found = self._proxies.find(url)
        proxy = None
        if found is not None:
            attempt.proxy, proxy = found
            self._policy.check_literal(url.host)
        lowered = {name.lower(): value for name, value in (given or {}).items()}
        headers = httpx.Headers({**self._headers, "Accept-Encoding": encoding})
        headers.update({name: value for name, value in lowered.items() if name not in ("authorization", "host")})
        authorization = self._credentials.header(url, lowered, redirected=redirected)
        if authorization is not None:
            headers["Authorization"] = authorization
        read = timeout or self._timeout
        timeouts = {"connect": CONNECT_SECONDS, "read": read, "write": read, "pool": read}
        request = httpx.Request(method, without_userinfo(url), headers=headers, extensions={"timeout": timeouts})
        return request, proxy

    def send(
        self,
        attempt: Attempt,
        method: str,
        given: Mapping[str, str] | None,
        allow_redirects: bool,
        timeout: float | None,
        encoding: str,
    ) -> httpx.Response:
        """Return the last answer, whose body is not read yet. Raises what `ERRORS` has."""
        url = attempt.url
        while True:
            request, proxy = self._request(attempt, url, method, given, timeout, encoding)
            transport = self._transport(attempt.proxy, proxy)
            try:
                response = transport.handle_request(request)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                # an idle connection may be closed by the server at the instant of its reuse
                response = transport.handle_request(request)
            self._head(attempt, request, response)
            if not (allow_redirects and response.has_redirect_location):
                return response
            try:
                url = _location(attempt, response)
                drain(response)
            finally:
                response.close()
            attempt.history.append(response)

    async def async_send(
        self,
        attempt: Attempt,
        method: str,
        given: Mapping[str, str] | None,
        allow_redirects: bool,
        timeout: float | None,
    ) -> httpx.Response:
        """As `send`, on the event loop; the body is compressed."""
        url = attempt.url
        while True:
            request, proxy = self._request(attempt, url, method, given, timeout, "gzip")
            transport = self._async_transport(attempt.proxy, proxy)
            try:
                response = await transport.handle_async_request(request)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                response = await transport.handle_async_request(request)
            self._head(attempt, request, response)
            if not (allow_redirects and response.has_redirect_location):
                return response
            try:
                url = _location(attempt, response)
                await async_drain(response)
            finally:
                await response.aclose()
            attempt.history.append(response)

    def _head(self, attempt: Attempt, request: httpx.Request, response: httpx.Response) -> None:
        response.request = request
        response.history = list(attempt.history)
        attempt.status = response.status_code

    def _transport(self, variable: str | None, proxy: httpx.Proxy | None) -> PinnedTransport:
        with self._lock:
            transport = self._transports.get(variable)
            if transport is None:
                transport = self._transports[variable] = PinnedTransport(self._context, self._lookup, proxy)
            return transport

    def _async_transport(self, variable: str | None, proxy: httpx.Proxy | None) -> AsyncPinnedTransport:
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._loop is not loop:
                self._loop, self._async_transports = loop, {}
            transport = self._async_transports.get(variable)
            if transport is None:
                transport = self._async_transports[variable] = AsyncPinnedTransport(self._context, self._lookup, proxy)
            return transport


def _location(attempt: Attempt, response: httpx.Response) -> httpx.URL:
    """Return where a redirect leads. Raises UpstreamFault."""
    if len(attempt.history) >= REDIRECTS:
        reason = f"{attempt.host} redirected more than {REDIRECTS} times"
        raise UpstreamFault(Cause("redirects", reason, "check the mirror's URL: use the one that answers itself"))
    try:
        return without_userinfo(response.request.url.join(response.headers["location"]))
    except (httpx.InvalidURL, ValueError):
        reason = f"{attempt.host} redirected to what is not a URL"
        raise UpstreamFault(Cause("redirects", reason, "check what is at the mirror's URL")) from None
