"""devpi-server's launch, and its life until it ends by itself or a stop is asked for."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from sidecar.container.boot import Booted
from sidecar.container.delivery import SendQueues
from sidecar.core.errors import Exit
from sidecar.core.lifecycle import Contents, DevpiInfo, Lifecycle, Phase, now
from sidecar.core.settings import Settings
from sidecar.core.threads import to_the_end
from sidecar.devpi.client import DevpiClient
from sidecar.devpi.process import Child
from sidecar.devpi.protocol import PROBE_HEADER, Listening, Serve
from sidecar.features.credentials.claims import Bootstrap
from sidecar.features.credentials.login_secret import DerivedKey, note_derived_key, place_secret
from sidecar.features.credentials.root_password import RootPasswordFile
from sidecar.features.credentials.users import Setter, Users
from sidecar.features.health.monitor import Health, Serving
from sidecar.features.mirror import notice
from sidecar.storage.runtime_dir import RuntimeDir

log = logging.getLogger(__name__)


class Server:
    """The child as devpi-server: launches it, and brings all others together with it."""

    def __init__(
        self,
        settings: Settings,
        child: Child,
        lifecycle: Lifecycle,
        health: Health,
        bootstrap: Bootstrap,
        users: Users,
        runtime: RuntimeDir,
    ) -> None:
        self._settings = settings
        self._child = child
        self._lifecycle = lifecycle
        self._health = health
        self._bootstrap = bootstrap
        self._users = users
        self._runtime = runtime
        self._probe_secret = secrets.token_hex(16)
        self._client: DevpiClient | None = None
        self.queues: SendQueues | None = None
        """The send queues of its connections; None: it has not listened."""
        self.cleared = False
        """It has looked for the uploads that an earlier one left half-made."""
        self.aside: list[asyncio.Task[None]] = []
        """What nothing waits for."""

    async def run(self, booted: Booted) -> NoReturn:
        """Have the child become devpi-server, and follow it until it ends by itself.

        Raises Exit, ChildEnded, CredentialsError, OSError.
        """
        await self._ready(booted, *await self._launch(booted))
        self.ended(await self._child.exited())

    async def close(self) -> None:
        """Close what it was asked through."""
        if self._client is not None:
            await self._client.close()

    async def _launch(self, booted: Booted) -> tuple[Listening, RootPasswordFile]:
        """Have the child become devpi-server, and wait until it takes requests."""
        serverdir, configured, listeners = booted.serverdir, booted.configured, booted.listeners
        self._lifecycle.enter(Phase.LAUNCHING)
        record = await to_the_end(RootPasswordFile(serverdir.root_password).load)
        secret = await to_the_end(
            place_secret,
            serverdir.own,
            serverdir.path,
            self._runtime.path,
            given=None if configured.secretfile is None else Path(configured.secretfile),
            is_random=self._settings.credentials.secret_is_random,
            renew=record.rotating and not record.pending_keeps_logins,
        )
        self._bootstrap.attach(record, secret.own)
        self._child.on_users = self._users.hear
        self._child.on_mirrors = notice.Follower(self._lifecycle).hear
        self._child.on_contents = lambda seen: self._lifecycle.update(contents=Contents(**asdict(seen), at=now()))
        serve = Serve(
            secretfile=str(secret.path),
            cheap_derivation=secret.derivation == "cheap",
            tmpdir=str(serverdir.tmp),
            known_root_hash=booted.root_hash,
            probe_secret=self._probe_secret,
            new_root_password=record.pending_rotation(),
            after_kill=await to_the_end(serverdir.begin_serving),
        )
        await to_the_end(listeners.listen)
        await self._child.serve(serve, listeners.descriptors)
        said = await self._child.expect(Listening)
        self.queues = SendQueues(said.addresses)
        key = DerivedKey(said.derived_key, said.argon2)
        await to_the_end(note_derived_key, serverdir.own, key, kept=secret.own is not None)
        self.cleared = said.role != "replica"  # which looks for no half-made uploads
        if record.rotating:
            await to_the_end(record.recover_rotation)
            log.warning("finished a change of root's password that an earlier run had begun: it can be claimed")
            self._bootstrap.attach(record, secret.own)
        return said, record

    async def _ready(self, booted: Booted, said: Listening, record: RootPasswordFile) -> None:
        """Tell everybody that devpi-server listens, and be ready when it truly answers; or return when it has ended."""
        serverdir, configured = booted.serverdir, booted.configured
        self._lifecycle.update(
            devpi=DevpiInfo(
                configured.version,
                role=said.role,
                addresses=tuple(said.addresses),
                plugins=tuple((name, version) for name, version in configured.plugins),
                outside_url=configured.outside_url,
            )
        )
        setter = Setter(self._child, serverdir, self._runtime)
        if said.root_password == "unusable":  # noqa: S105 - not a password
            await self._users.give_root_password(record, setter)
        if said.root_hash is not None:
            await setter.keep_root_hash(said.root_hash)
        self._bootstrap.devpi_runs(setter, said.role)
        self._users.begin(said.root_password, said.role)
        headers = {PROBE_HEADER: self._probe_secret}
        self._client = DevpiClient(said.addresses[0], self._settings.monitor.request_timeout, headers)
        pid, primary = self._child.pid, lambda: self._child.primary
        self._health.probe(
            Serving(pid, self._client, serverdir.path, said.uuid, said.role, serverdir.lock.lost, primary)
        )
        ready = asyncio.ensure_future(self._health.wait_until_ready())
        ended = asyncio.ensure_future(self._child.exited())
        await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if ended.done():
            return
        ended.cancel()
        log.info("ready: devpi-server %s serves on %s", configured.version, ", ".join(said.addresses))
        self._lifecycle.enter(Phase.READY)  # what listens for it logs what a person does next: that is the last line
        if booted.provided_is_old and said.role != "replica":
            report = self._users.report_unused_password()
            self.aside.append(asyncio.create_task(report, name="given password"))

    def ended(self, code: int) -> NoReturn:
        """devpi-server ended by itself: its code becomes the container's."""
        hint = "its own log says why"
        if code < 0:
            name, cause = signal.Signals(-code).name, ""
            if code == -signal.SIGKILL:
                cause = ", most likely for want of memory"
                hint = "raise the memory limit; the orchestrator's own record tells whether that was it"
            reason, code = f"devpi-server was ended by {name}{cause}", 128 - code
        else:
            reason, code = f"devpi-server ended by itself with code {code}", code or 1
        self._health.process_ended(reason, hint)
        raise Exit(code, reason, hint)
