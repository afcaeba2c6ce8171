"""An HTTP client that asks a running devpi-server what any new client would see.

Apart from `sidecar.web`, only this module imports aiohttp. devpi-server speaks plain HTTP, on TCP or on a Unix socket;
TLS is terminated before it.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from sidecar.devpi import server_status
from sidecar.devpi.server_status import ServerStatus

API_LIMIT = 64 * 1024
"""Maximum bytes read of a `+api` answer."""
STATUS_LIMIT = 256 * 1024
"""Maximum bytes read of a `+status` answer: 1,000 replicas. Parsing that blocks the event loop, and the probes, for up
to 20 ms."""

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - these are dialled, not bound
_BACKLOG_FULL = frozenset({errno.ETIMEDOUT, errno.EAGAIN, errno.ENOTCONN})
"""Errors of a full backlog: the first on TCP, the others on a Unix socket, where asyncio takes EAGAIN for "in progress"
and fails at the first send."""


class DevpiError(Exception):
    """devpi-server gave no valid answer."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Refused(DevpiError):
    """No connection, or one closed without an answer."""


class TimedOut(DevpiError):
    """No answer in time: devpi-server is busy, or hangs."""


class BadAnswer(DevpiError):
    """An answer that a healthy devpi-server doesn't give."""

    def __init__(self, reason: str, *, busy: bool = False) -> None:
        super().__init__(reason)
        self.busy = busy
        """503 with Retry-After: the server sheds load."""


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """devpi-server answered `+api`."""

    seconds: float
    """From the start of connecting to the end of the answer."""
    uuid: str | None
    """X-Devpi-Uuid."""


class DevpiClient:
    """Asks one devpi-server, over a new connection for each request. For one event loop."""

    def __init__(self, address: str, timeout: float, headers: Mapping[str, str] | None = None) -> None:
        """`address`: `http://host:port` or `unix:/path`; `timeout`: seconds for a whole answer; `headers`: for all.

        Raises ValueError for any other address.
        """
        self._timeout = timeout
        self._headers = dict(headers or {})
        self._session: aiohttp.ClientSession | None = None
        self._socket: str | None = None
        if address.startswith("unix:"):
            self._socket = address.removeprefix("unix:")
            self._base = "http://localhost"
            return
        parts = urlsplit(address)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{address!r} is neither http://host:port nor unix:/path")
        host = _WILDCARDS.get(parts.hostname, parts.hostname)
        self._base = f"http://{f'[{host}]' if ':' in host else host}:{parts.port or 80}"

    async def api(self) -> ApiAnswer:
        """GET `/+api`, which opens devpi's database. Raises `DevpiError`."""
        started = time.monotonic()
        headers, _ = await self._get("/+api", API_LIMIT)
        return ApiAnswer(time.monotonic() - started, headers.get("X-Devpi-Uuid"))

    async def status(self) -> ServerStatus:
        """GET `/+status`. Raises `DevpiError`."""
        _, result = await self._get("/+status", STATUS_LIMIT)
        return server_status.parse(result)

    async def close(self) -> None:
        """Close the sockets."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _get(self, path: str, limit: int) -> tuple[Mapping[str, str], dict[str, object]]:
        """Return the headers and the `result` of an answer. Raises `DevpiError`."""
        if self._session is None:
            self._session = self._open_session()
        try:
            async with self._session.get(self._base + path, allow_redirects=False) as response:
                if response.status != 200:
                    busy = response.status == 503 and "Retry-After" in response.headers
                    raise BadAnswer(f"answered {response.status}", busy=busy)
                body = await _read(response, limit)
                return response.headers, _result(body)
        except TimeoutError:
            raise TimedOut(f"no answer within {self._timeout:g} s") from None
        except aiohttp.ClientOSError as error:
            if error.errno in _BACKLOG_FULL:
                raise TimedOut("it accepts no more connections") from None
            raise Refused(_no_connection(error)) from None
        except (aiohttp.ClientConnectionError, OSError):
            raise Refused("the connection was closed without an answer") from None
        except aiohttp.ClientPayloadError:
            raise BadAnswer("the answer was cut short") from None
        except (aiohttp.ClientError, ValueError):
            raise BadAnswer("the answer is not HTTP") from None

    def _open_session(self) -> aiohttp.ClientSession:
        connector: aiohttp.BaseConnector
        if self._socket is None:
            connector = aiohttp.TCPConnector(force_close=True, limit=8)
        else:
            connector = aiohttp.UnixConnector(self._socket, force_close=True, limit=8)
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={  # without Accept, devpi-web answers +status in HTML
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": "devpi-sidecar",
                **self._headers,
            },
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            trust_env=False,
        )


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise BadAnswer(f"the answer has more than {limit} bytes")
    return bytes(body)


def _result(body: bytes) -> dict[str, object]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise BadAnswer("the answer is not JSON") from None
    result = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(result, dict):
        raise BadAnswer("the answer has no result")
    return result


def _no_connection(error: aiohttp.ClientOSError) -> str:
    """Return the errno's own text: asyncio's contains the address, which may be a path."""
    if error.errno is None or error.errno <= 0:  # several errors, or a name that doesn't resolve
        return "no connection"
    return os.strerror(error.errno).lower()
