"""The app on a real socket, with real lifecycle, monitor and bootstrap."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sidecar.container.features import features
from sidecar.core.board import Board
from sidecar.core.feature import one_of
from sidecar.core.lifecycle import Lifecycle, Phase, now
from sidecar.core.settings import MonitorSettings, from_environ
from sidecar.devpi.client import DevpiClient
from sidecar.features.bootstrap.import_status import ImportStatus
from sidecar.features.bootstrap.preparation import Bootstrap
from sidecar.features.credentials.claims import Claims
from sidecar.features.credentials.keeper import Credentials
from sidecar.features.credentials.login_secret import LoginSecret
from sidecar.features.credentials.password_status import RootPasswordStatus, UnusablePasswords
from sidecar.features.credentials.root_has_one import judge_root_password
from sidecar.features.credentials.root_password import RootPasswordFile
from sidecar.features.credentials.rotation import PasswordSetter
from sidecar.features.credentials.secrets import AdminToken
from sidecar.features.health.monitor import Health, Serving
from sidecar.features.hooks import Hooks
from sidecar.features.mirror.following import Mirror, Mirrors
from sidecar.features.mirror.upstream_check import judge_upstreams
from sidecar.features.numbers.amounts import Contents
from sidecar.features.numbers.counting import Counting
from sidecar.storage.runtime_dir import RuntimeDir
from sidecar.web.app import Context, make_app
from sidecar.web.server.site import WebServer, serve
from tests.support import described
from tests.support.fake_devpi import UUID, FakeDevpi

TOKEN = "t0ken-of-the-admin"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
PASSWORD = "generated-Passw0rd"


class Devpi:
    """A running devpi-server with the generated password, which can be changed."""

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
    """The app under test, and the objects that it reports on."""

    folder: Path
    lifecycle: Lifecycle
    board: Board
    features: tuple[Hooks, ...]
    claim_ttl: float | None
    devpi: FakeDevpi
    tick_age: float = 0.0
    client: DevpiClient | None = None
    web: WebServer = field(init=False)
    session: aiohttp.ClientSession = field(init=False)

    @property
    def health(self) -> Health:
        return one_of(self.features, Health)

    @property
    def credentials(self) -> Credentials:
        return one_of(self.features, Credentials)

    @property
    def context(self) -> Context:
        """Return the app's context."""
        return Context(self.lifecycle, self.board, self.features, lambda: self.tick_age, "1.2.3")

    async def ask(self, method: str, path: str, **options: Any) -> Answer:
        """Send a request, and return an answer that matches `/openapi.json`."""
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
        """Send these bytes, and return all that is received until the connection ends."""
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
        """Make devpi-server serve."""
        client = self.client = DevpiClient(await self.devpi.start(), 1)
        (self.folder / ".sidecar").mkdir(exist_ok=True)
        self.lifecycle.enter(Phase.LAUNCHING)
        self.root_password("set", allowed=False)
        self.board.push("mirror", judge_upstreams((), now()))
        self.health.probe(Serving(os.getpid(), client, self.folder, UUID, "standalone", lambda: None))
        await asyncio.wait_for(self.health.wait_until_ready(), 5)
        self.lifecycle.enter(Phase.READY)

    def root_password(self, state: str, *, allowed: bool) -> None:
        """Set what is known of root's password, and whether the settings allow an empty one."""
        self.board.push("root-password", judge_root_password(state, allowed))

    def attach(self, record: RootPasswordFile, secret: LoginSecret | None = None) -> Claims:
        """Launch devpi-server with this record."""
        claims = Claims(self.lifecycle, record, secret, self.claim_ttl, changed=self.board.changed)
        self.credentials._record, self.credentials._claims = record, claims
        return claims

    def generate_password(self, setter: PasswordSetter | None = None) -> None:
        """Generate a root password, which can be claimed."""
        record = RootPasswordFile(self.folder / "root-password")
        record.write_generated(PASSWORD)
        self.attach(record).devpi_up(setter or Devpi(), "standalone")

    def tell(
        self,
        *,
        imported: ImportStatus | None = None,
        mirrors: Mirrors | None = None,
        unusable_passwords: UnusablePasswords | None = None,
        contents: Contents | None = None,
        root_password: RootPasswordStatus | None = None,
    ) -> None:
        """Pass this message to the features."""
        if imported is not None:
            one_of(self.features, Bootstrap)._publish(imported)
        if mirrors is not None:
            one_of(self.features, Mirror).mirrors = mirrors
        if unusable_passwords is not None:
            self.credentials._users.unusable = unusable_passwords
        if contents is not None:
            one_of(self.features, Counting)._contents = contents
        if root_password is not None:
            record = RootPasswordFile(self.folder / "root-password")
            self.attach(record).status = lambda: root_password  # type: ignore[method-assign]
        self.board.changed()


@pytest.fixture
def claim_ttl() -> float | None:
    return None


@pytest.fixture
async def site(tmp_path: Path, claim_ttl: float | None) -> AsyncIterator[Site]:
    lifecycle, board = Lifecycle(), Board()
    monitor = MonitorSettings(interval=0.2, request_timeout=1, disk_warn_bytes=1)
    settings = replace(from_environ({}), monitor=monitor)
    runtime = RuntimeDir.open(tmp_path / "runtime")
    site = Site(tmp_path, lifecycle, board, features(settings, lifecycle, board, runtime), claim_ttl, FakeDevpi())
    site.credentials._token = AdminToken(TOKEN)
    site.web = await serve(make_app(site.context), "127.0.0.1", 0)
    site.session = aiohttp.ClientSession()
    watch = asyncio.create_task(site.health.run())
    yield site
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    if site.client is not None:
        await site.client.close()
    await site.session.close()
    await site.web.stop()
    await site.devpi.stop()
    runtime.close()
