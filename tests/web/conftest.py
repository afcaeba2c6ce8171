"""The app on a real socket, with a real lifecycle, monitor and bootstrap."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sidecar.core.lifecycle import Lifecycle, Phase
from sidecar.core.settings import MonitorSettings
from sidecar.devpi.client import DevpiClient
from sidecar.features.credentials.claims import Bootstrap
from sidecar.features.credentials.root_password import RootPasswordFile
from sidecar.features.credentials.secrets import AdminToken
from sidecar.features.health.monitor import Health, Serving
from sidecar.web.app import Context, make_app
from sidecar.web.server.site import WebServer, serve
from tests.support import described
from tests.support.fake_devpi import UUID, FakeDevpi

TOKEN = "t0ken-of-the-admin"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
PASSWORD = "generated-Passw0rd"


class Devpi:
    """A running devpi-server that has the generated password, and takes another."""

    password = PASSWORD

    async def set_root_password(self, password: str, login_secret: bytes | None) -> None:
        self.password = password

    async def is_root_password(self, password: str) -> bool | None:
        return password == self.password


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes
    json: Any = field(default=None)


@dataclass
class Site:
    """The app that is asked, and what it speaks of."""

    folder: Path
    lifecycle: Lifecycle
    health: Health
    bootstrap: Bootstrap
    devpi: FakeDevpi
    tick_age: float = 0.0
    client: DevpiClient | None = None
    web: WebServer = field(init=False)
    session: aiohttp.ClientSession = field(init=False)

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        """An answer, which is one that `/openapi.json` describes."""
        async with self.session.request(
            method, f"http://127.0.0.1:{self.web.port}{path}", allow_redirects=False, **options
        ) as response:
            body = await response.read()
            described.hold(method, path, response.status, response.headers, body)
            is_json = "json" in response.headers.get("Content-Type", "") and bool(body)
            return Answer(
                response.status, response.headers, body, await response.json(content_type=None) if is_json else None
            )

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.ask("GET", path, headers=headers)

    async def raw(self, sent: bytes) -> bytes:
        """What comes back for these bytes, until the connection is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.web.port)
        try:
            writer.write(sent)
            await writer.drain()
            return await asyncio.wait_for(reader.read(), 5)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def become_ready(self) -> None:
        """devpi-server serves."""
        client = self.client = DevpiClient(await self.devpi.start(), 1)
        (self.folder / ".sidecar").mkdir(exist_ok=True)
        self.lifecycle.enter(Phase.LAUNCHING)
        self.health.set_root_password("set", allowed=False)
        self.health.probe(Serving(os.getpid(), client, self.folder, UUID, "standalone", lambda: None))
        await asyncio.wait_for(self.health.wait_until_ready(), 5)
        self.lifecycle.enter(Phase.READY)

    def generate_password(self) -> None:
        """A root password was generated, and can be claimed."""
        record = RootPasswordFile(self.folder / "root-password")
        record.write_generated(PASSWORD)
        self.bootstrap.attach(record, None)
        self.bootstrap.devpi_runs(Devpi(), "standalone")


@pytest.fixture
def claim_ttl() -> float | None:
    return None


@pytest.fixture
async def site(tmp_path: Path, claim_ttl: float | None) -> AsyncIterator[Site]:
    lifecycle = Lifecycle()
    health = Health(lifecycle, MonitorSettings(interval=0.2, request_timeout=1, disk_warn_bytes=1))
    bootstrap = Bootstrap(lifecycle, claim_ttl)
    bootstrap.set_token(AdminToken(TOKEN))
    site = Site(tmp_path, lifecycle, health, bootstrap, FakeDevpi())
    context = Context(lifecycle, health, bootstrap, lambda: site.tick_age, "1.2.3")
    site.web = await serve(make_app(context), "127.0.0.1", 0)
    site.session = aiohttp.ClientSession()
    monitor = asyncio.create_task(health.run())
    yield site
    monitor.cancel()
    await asyncio.gather(monitor, return_exceptions=True)
    if site.client is not None:
        await site.client.close()
    await site.session.close()
    await site.web.stop()
    await site.devpi.stop()
