"""A devpi-server that misbehaves on command, on a real socket, for faults that a real one doesn't show."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

UUID = "0123456789abcdef0123456789abcdef"
API = {"result": {"login": "http://localhost/+login", "authstatus": ["noauth", "", []]}, "type": "apiconfig"}


def status_of(**changes: Any) -> dict[str, Any]:
    """The `result` of `+status` of a healthy primary; `changes` with `_` for `-`."""
    at = time.time()
    result: dict[str, Any] = {
        "serverdir": "/srv/devpi",
        "uuid": UUID,
        "versioninfo": {"devpi-server": "6.20.3"},
        "serial": 7,
        "last-commit-timestamp": at,
        "event-serial": 7,
        "event-serial-timestamp": at,
        "event-serial-in-sync-at": at,
        "metrics": [["devpi_server_storage_cache_hits", "counter", 1]],
        "role": "MASTER",
        "polling_replicas": {},
    }
    return result | {name.replace("_", "-"): value for name, value in changes.items()}


class FakeDevpi:
    """Answers `+api` and `+status` according to its attributes; `calls` counts by path."""

    def __init__(self) -> None:
        self.api: Callable[[], web.StreamResponse] | None = None
        self.uuid = UUID
        self.delay = 0.0
        self.cut = False
        self.status = status_of()
        self.status_body: bytes | None = None
        """What `+status` answers instead of `status`."""
        self.status_delay = 0.0
        self.status_code = 200
        self.calls: dict[str, int] = {}
        self.headers: list[dict[str, str]] = []
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._listening: socket.socket | None = None

    async def start(self, path: Path | None = None) -> str:
        """Listen, on the same port as before if there was one, and return the address."""
        app = web.Application()
        app.router.add_get("/+api", self._api)
        app.router.add_get("/+status", self._status)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await self._runner.setup()
        if path is not None:
            await web.UnixSite(self._runner, path).start()
            return f"unix:{path}"
        self._listening = socket.create_server(("127.0.0.1", self.port), backlog=128)
        await web.SockSite(self._runner, self._listening).start()
        self.port = self._listening.getsockname()[1]
        return f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """Refuse connections from now on."""
        if self._runner is not None:
            if self._listening is not None:
                # asyncio leaks accepted connections if the server is closed in the same iteration of the loop
                # (Python 3.13): accept nothing more, let the accepted ones reach the runner, then close.
                asyncio.get_running_loop().remove_reader(self._listening)
                for _ in range(3):
                    await asyncio.sleep(0)
            await self._runner.cleanup()
            await asyncio.sleep(0)  # closed connections close their sockets in the loop's next iteration
            self._runner = None

    def _heard(self, request: web.Request) -> None:
        self.calls[request.path] = self.calls.get(request.path, 0) + 1
        self.headers.append(dict(request.headers))

    async def _api(self, request: web.Request) -> web.StreamResponse:
        self._heard(request)
        await asyncio.sleep(self.delay)
        if self.cut:
            assert request.transport is not None
            request.transport.close()
        if self.api is not None:
            return self.api()
        return web.json_response(API, headers={"X-Devpi-Uuid": self.uuid})

    async def _status(self, request: web.Request) -> web.StreamResponse:
        self._heard(request)
        await asyncio.sleep(self.status_delay)
        if self.status_code != 200:
            return web.Response(status=self.status_code)
        if self.status_body is not None:
            return web.Response(body=self.status_body)
        return web.json_response({"result": self.status, "type": "status"})


async def eventually(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Return the result of `condition` once that is true; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not become true in time"
        await asyncio.sleep(0.005)
    return value
