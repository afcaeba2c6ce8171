"""Connections to upstreams: to addresses that were checked, with TLS by the host's name, direct or through a proxy.

httpx and httpcore do the HTTP. httpcore's network backend is its documented extension point: ours resolves the name,
checks the addresses and connects to one of them, so a name that resolves differently a moment later changes nothing.
"""

from __future__ import annotations

import contextvars
import ssl
import time
import urllib.request
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

from sidecar.worker.upstream.causes import Cause, UpstreamFault, total_timeout
from sidecar.worker.upstream.lookup import Lookup, remaining, shares

DEADLINE: contextvars.ContextVar[tuple[float, float, str] | None] = contextvars.ContextVar("DEADLINE", default=None)
"""When the synchronous request of this thread has to be complete: monotonic time, seconds in total, setting."""

_CONNECTIONS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=30.0)

SocketOptions = Iterable[Any] | None


class PinnedBackend(httpcore.NetworkBackend):
    """Connects to checked addresses, and observes `DEADLINE`. Without a lookup, any address is right: a proxy's."""

    def __init__(self, lookup: Lookup | None) -> None:
        self._lookup = lookup
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: SocketOptions = None,
    ) -> httpcore.NetworkStream:
        """Raises UpstreamFault, httpcore.ConnectError or httpcore.ConnectTimeout."""
        began = time.monotonic()
        timeout = _until_deadline(timeout)
        addresses = [host]
        if self._lookup is not None:
            try:
                addresses = list(self._lookup.addresses(host, timeout))
            except OSError as error:
                raise httpcore.ConnectError(str(error)) from error
        failure: Exception | None = None
        for address, seconds in shares(addresses, remaining(began, timeout)):
            try:
                return BoundedStream(self._inner.connect_tcp(address, port, seconds, local_address, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError(f"no address of {host}")

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: SocketOptions = None
    ) -> httpcore.NetworkStream:
        """No upstream is on a Unix socket."""
        raise httpcore.ConnectError("Unix sockets are not supported")


class BoundedStream(httpcore.NetworkStream):
    """A connection whose reads and writes end at `DEADLINE`."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Raises UpstreamFault after the deadline."""
        try:
            return self._inner.read(max_bytes, _until_deadline(timeout))
        except httpcore.ReadTimeout:
            _until_deadline(timeout)  # the deadline's fault, if it is that
            raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Raises UpstreamFault after the deadline."""
        self._inner.write(buffer, _until_deadline(timeout))

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Return the connection with TLS, for `server_hostname`."""
        return BoundedStream(self._inner.start_tls(ssl_context, server_hostname, _until_deadline(timeout)))

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - httpcore's signature
        """As httpcore's."""
        return self._inner.get_extra_info(info)


class AsyncPinnedBackend(httpcore.AsyncNetworkBackend):
    """As `PinnedBackend`, on an event loop, where `asyncio.timeout` is the deadline."""

    def __init__(self, lookup: Lookup | None) -> None:
        self._lookup = lookup
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: SocketOptions = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises UpstreamFault, httpcore.ConnectError or httpcore.ConnectTimeout."""
        began = time.monotonic()
        addresses = [host]
        if self._lookup is not None:
            try:
                addresses = list(await self._lookup.async_addresses(host, timeout))
            except OSError as error:
                raise httpcore.ConnectError(str(error)) from error
        failure: Exception | None = None
        for address, seconds in shares(addresses, remaining(began, timeout)):
            try:
                return await self._inner.connect_tcp(address, port, seconds, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError(f"no address of {host}")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: SocketOptions = None,
    ) -> httpcore.AsyncNetworkStream:
        """No upstream is on a Unix socket."""
        raise httpcore.ConnectError("Unix sockets are not supported")

    async def sleep(self, seconds: float) -> None:
        """As httpcore's."""
        await self._inner.sleep(seconds)


class PinnedTransport(httpx.HTTPTransport):
    """A pool of connections, for threads."""

    def __init__(self, context: ssl.SSLContext, lookup: Lookup | None, proxy: httpx.Proxy | None = None) -> None:
        backend = PinnedBackend(None if proxy is not None else lookup)
        self._pool: httpcore.ConnectionPool = (
            httpcore.ConnectionPool(network_backend=backend, **_pool_options(context))
            if proxy is None
            else httpcore.HTTPProxy(network_backend=backend, **_proxy_options(proxy, context), **_pool_options(context))
        )


class AsyncPinnedTransport(httpx.AsyncHTTPTransport):
    """A pool of connections, for one event loop."""

    def __init__(self, context: ssl.SSLContext, lookup: Lookup | None, proxy: httpx.Proxy | None = None) -> None:
        backend = AsyncPinnedBackend(None if proxy is not None else lookup)
        self._pool: httpcore.AsyncConnectionPool = (
            httpcore.AsyncConnectionPool(network_backend=backend, **_pool_options(context))
            if proxy is None
            else httpcore.AsyncHTTPProxy(
                network_backend=backend, **_proxy_options(proxy, context), **_pool_options(context)
            )
        )


class Proxies:
    """The proxies of the usual variables, which are read once: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY."""

    def __init__(self) -> None:
        self._proxies = urllib.request.getproxies_environment()

    def find(self, url: httpx.URL) -> tuple[str, httpx.Proxy] | None:
        """Return the variable and the proxy for a URL; None: connect to its host. Raises UpstreamFault (`proxy`)."""
        for scheme in (url.scheme, "all"):
            text = self._proxies.get(scheme)
            if not text:
                continue
            if urllib.request.proxy_bypass_environment(  # type: ignore[attr-defined]
                url.netloc.decode("ascii"), self._proxies
            ):
                return None
            variable = f"{scheme.upper()}_PROXY"
            if "://" not in text:
                text = f"http://{text}"
            try:
                proxy = httpx.Proxy(text)
            except (ValueError, httpx.InvalidURL):
                proxy = None
            if proxy is None or proxy.url.scheme not in ("http", "https") or not proxy.url.host:
                raise UpstreamFault(
                    Cause("proxy", f"{variable} is not the URL of an HTTP proxy", "set it to http://host:port")
                )
            return variable, proxy
        return None


def _pool_options(context: ssl.SSLContext) -> dict[str, Any]:
    return {
        "ssl_context": context,
        "max_connections": _CONNECTIONS.max_connections,
        "max_keepalive_connections": _CONNECTIONS.max_keepalive_connections,
        "keepalive_expiry": _CONNECTIONS.keepalive_expiry,
    }


def _proxy_options(proxy: httpx.Proxy, context: ssl.SSLContext) -> dict[str, Any]:
    url = httpcore.URL(
        scheme=proxy.url.raw_scheme, host=proxy.url.raw_host, port=proxy.url.port, target=proxy.url.raw_path
    )
    options: dict[str, Any] = {"proxy_url": url, "proxy_auth": proxy.raw_auth, "proxy_headers": proxy.headers.raw}
    if proxy.url.scheme == "https":
        options["proxy_ssl_context"] = context
    return options


def _until_deadline(timeout: float | None) -> float | None:
    deadline = DEADLINE.get()
    if deadline is None:
        return timeout
    until, seconds, setting = deadline
    left = until - time.monotonic()
    if left <= 0:
        raise total_timeout("the upstream", seconds, setting)
    return left if timeout is None else min(timeout, left)
