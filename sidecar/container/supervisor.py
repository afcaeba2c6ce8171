"""The life of the container, from top to bottom: understand, open, prepare, launch, serve; and the way down.

Everything here happens on the event loop; what touches the disk for long happens in a thread or in the child.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import secrets
import signal
import time
from collections.abc import Awaitable
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

from sidecar.container.delivery import SendQueues
from sidecar.core import files
from sidecar.core.disk_hints import hint
from sidecar.core.errors import Exit, ExitCode
from sidecar.core.lifecycle import Contents, DevpiInfo, ImportState, Lifecycle, Notice, Phase, now
from sidecar.core.settings import DEFAULT_SERVERDIR, Settings
from sidecar.core.threads import to_the_end
from sidecar.devpi.client import DevpiClient
from sidecar.devpi.process import Child, ChildEnded
from sidecar.devpi.protocol import (
    PROBE_HEADER,
    CannotListen,
    Configure,
    Configured,
    Done,
    Drain,
    Drained,
    Listening,
    Refused,
    Serve,
)
from sidecar.features.bootstrap import status, unused
from sidecar.features.bootstrap.initial_state import (
    ImportFailed,
    InitialState,
    check_first_state,
    check_storage,
)
from sidecar.features.credentials.claims import Bootstrap
from sidecar.features.credentials.login_secret import (
    DerivedKey,
    copy_given_secret,
    note_derived_key,
    place_secret,
    read_adoptable,
)
from sidecar.features.credentials.root_password import RootPasswordFile
from sidecar.features.credentials.secrets import AdminToken, CredentialsDamaged, CredentialsError, secure_directory
from sidecar.features.credentials.users import Setter, Users
from sidecar.features.health.monitor import Health, Serving
from sidecar.features.mirror import notice
from sidecar.storage import mounts
from sidecar.storage.inspection import Content, Storage
from sidecar.storage.runtime_dir import RuntimeDir
from sidecar.storage.serverdir import Serverdir

log = logging.getLogger(__name__)

_TICK = 1.0
"""Seconds between two ticks, by which `/livez` knows that this is alive."""
_PATIENCE = 2.0
"""Seconds that devpi-server has to end after its drain, and again after SIGTERM, before it is killed."""


class Supervisor:
    """Owns the child and the serverdir, and moves the lifecycle on."""

    def __init__(
        self,
        settings: Settings,
        flags: list[str],
        child: Child,
        lifecycle: Lifecycle,
        health: Health,
        bootstrap: Bootstrap,
        runtime: RuntimeDir,
    ) -> None:
        self._settings = settings
        self._flags = flags
        self._child = child
        self._lifecycle = lifecycle
        self._health = health
        self._bootstrap = bootstrap
        self._runtime = runtime
        self._stop_asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._client: DevpiClient | None = None
        self._look_secret = secrets.token_hex(16)
        self._queues: SendQueues | None = None  # of devpi-server, once it listens
        self._cleared = False
        self._cut: int | None = None  # transfers that the drain has cut, once it has told
        child.on_notice = lifecycle.notice
        self._users = Users(lifecycle, health.set_root_password, bootstrap, settings.credentials)
        self._serverdir: Serverdir | None = None
        self._given_is_old = False  # a root password is given, and there was one before
        self._aside: asyncio.Task[None] | None = None
        """What nothing waits for."""
        self._ticked = time.monotonic()

    def stop(self) -> None:
        """Ask for a clean stop; asking again cuts it short."""
        if self._stop_asked.is_set():
            self._hurry.set()
        self._stop_asked.set()

    def served(self) -> Path | None:
        """The serverdir that a running devpi-server has; None: none runs."""
        watch = self._health.watching()
        return None if watch is None else watch.serving.serverdir

    def tick_age(self) -> float:
        """Seconds since the last tick."""
        return time.monotonic() - self._ticked

    async def run(self) -> None:
        """Live until a stop is asked for. Raises Exit for every other end."""
        story = asyncio.create_task(self._story(), name="story")
        stop = asyncio.create_task(self._stop_asked.wait(), name="stop")
        eternal = [
            asyncio.create_task(self._child.listen(), name="listener to the child"),
            asyncio.create_task(self._health.run(), name="monitor"),
            asyncio.create_task(self._tick(), name="tick"),
        ]
        tasks: list[asyncio.Task[object]] = [story, stop, *eternal]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if story.done():
                story.result()
            elif stop.done():
                story.cancel()
                await asyncio.wait([story])
                await self._stop()
            else:
                ended = next(task for task in eternal if task.done())
                log.critical("the %s has ended, which it never should", ended.get_name(), exc_info=ended.exception())
                raise Exit(ExitCode.INTERNAL, f"the sidecar's {ended.get_name()} has ended", "tell us, with the log")
        finally:
            self._child.signal(signal.SIGKILL)
            await self._child.exited()
            tasks += [self._aside] if self._aside is not None else []
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._clear_up(whole=False)
            if self._client is not None:
                await self._client.close()

    # --- the story ----------------------------------------------------------------------------------------------

    async def _story(self) -> None:
        try:
            configured = await self._understand()
            if configured is None:
                return
            serverdir = await self._open(configured)
            root_hash = await self._prepare(serverdir, configured)
            await self._launch(serverdir, configured, root_hash)
            self._devpi_ended(await self._child.exited())
        except ImportFailed:
            self._child.signal(signal.SIGKILL)  # its memory is of no use to anybody
            await asyncio.Event().wait()  # alive and not ready, the reason on show, until a stop is asked for
        except ChildEnded as error:
            self._devpi_ended(error.code)
        except CredentialsError as error:
            code = ExitCode.DAMAGED if isinstance(error, CredentialsDamaged) else ExitCode.NOT_WRITABLE
            raise Exit(code, error.reason, error.mend) from error
        except OSError as error:
            reason = f"the serverdir's volume or the runtime directory refuses: {error.strerror}"
            raise Exit(ExitCode.NOT_WRITABLE, reason, hint(error, "the volume or the runtime directory")) from error

    async def _understand(self) -> Configured | None:
        """Have devpi's parser, in the child, understand the flags; None: they asked for a text, which is printed."""
        serverdir = self._settings.serverdir
        await self._child.send(
            Configure(
                flags=self._flags,
                serverdir=None if serverdir is None else str(serverdir),
                default_serverdir=str(DEFAULT_SERVERDIR),
                port=self._settings.devpi_port,
                restrict_modify=self._settings.restrict_modify,
                sidecar_host=self._settings.listen.host,
                sidecar_port=self._settings.listen.port,
                known_variables=sorted(self._settings.known_variables),
                unknown_variables=[name[:100] for name in self._settings.unknown_variables[:50]],
            )
        )
        answer = await self._child.expect(Configured, Refused, Done)
        if isinstance(answer, Refused):
            raise Exit(ExitCode.SETTINGS, answer.reason, answer.mend)
        if isinstance(answer, Done):
            return None
        if answer.root_password is not None:
            self._take_password(answer.root_password)
        await to_the_end(check_first_state, answer, self._settings.imports)
        if answer.secretfile is not None:  # a mistake in the flags, too, is found before the serverdir is touched
            try:
                copy = await to_the_end(copy_given_secret, Path(answer.secretfile), self._runtime.path)
            except CredentialsError as error:
                raise Exit(ExitCode.SETTINGS, error.reason, error.mend) from error
            answer = replace(answer, secretfile=str(copy))
        devpi = DevpiInfo(answer.version, addresses=tuple(answer.addresses), outside_url=answer.outside_url)
        self._lifecycle.update(devpi=devpi)
        return answer

    def _take_password(self, given: str) -> None:
        """root's password by devpi's configuration file, which a variable overrides, as devpi's tools have it."""
        credentials = self._settings.credentials
        if credentials.root_password is None:
            self._settings = replace(self._settings, credentials=replace(credentials, root_password=given))
            self._users.given_password = given
        elif credentials.root_password != given:
            reason = "root-passwd in devpi-server's configuration file is not used: DEVPI_PASSWORD is another one"
            self._lifecycle.notice(Notice("configuration", reason, "keep one of them"))

    async def _open(self, configured: Configured) -> Serverdir:
        """Lock the serverdir, and clear up what an earlier run left in it."""
        serverdir = Serverdir(Path(configured.serverdir), Storage(configured.storage))
        self._child.hand_over_lock(await to_the_end(serverdir.open))
        self._serverdir = serverdir  # not before: whoever else holds it has things there that are not to be cleared up
        await to_the_end(secure_directory, serverdir.own)
        if (await to_the_end(mounts.under, serverdir.path)).in_memory:
            log.warning("the serverdir is on a tmpfs: all of it is lost with the container; mount a volume to keep it")
        if done := await to_the_end(serverdir.recover):
            log.warning("%s", done)
        token = await to_the_end(
            AdminToken.load_or_generate, serverdir.admin_token, self._settings.credentials.admin_token
        )
        self._bootstrap.set_token(token)
        self._runtime.write_token(token.value)
        return serverdir

    async def _prepare(self, serverdir: Serverdir, configured: Configured) -> str | None:
        """Make the first state where there is none. Returns the digest of root's hash, where it is known."""
        content = await to_the_end(serverdir.examine)
        given = self._settings.credentials.root_password
        if content is Content.EMPTY:
            check_storage(serverdir.storage)  # again: now nobody else can change what is there
            if configured.secretfile is None:
                await to_the_end(read_adoptable, serverdir.path)  # a mistake in it is found before there is a state
            first = InitialState(
                serverdir,
                self._child,
                self._lifecycle,
                self._settings.imports,
                given,
                project_list=self._settings.root_pypi_list,
            )
            return (await first.make()).root_hash
        if content is Content.FOREIGN:
            log.warning("the serverdir holds a devpi state that was not made here; it is taken over as it is")
            await to_the_end(files.remove, serverdir.import_record)  # of an import that this state is not of
            await to_the_end(serverdir.adopt)
        self._given_is_old = given is not None
        if not self._settings.imports.ignore_init_files:
            init_dir, record = self._settings.imports.init_dir, serverdir.import_record
            seen = await to_the_end(functools.partial(unused.notices, replica=configured.replica), init_dir, record)
            self._lifecycle.notice(*seen)
        kept = await to_the_end(status.load, serverdir.import_record)
        if kept is not None and kept[0].state is ImportState.COMPLETED:  # a failed one left no state
            self._lifecycle.update(imported=kept[0])
        return await to_the_end(_read_text, serverdir.root_hash)

    async def _launch(self, serverdir: Serverdir, configured: Configured, root_hash: str | None) -> None:
        """Have the child become devpi-server, and wait until it truly answers."""
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
        await self._child.send(
            Serve(
                secretfile=str(secret.path),
                cheap_derivation=secret.derivation == "cheap",
                tmpdir=str(serverdir.tmp),
                known_root_hash=root_hash,
                look_secret=self._look_secret,
                new_root_password=record.pending_rotation(),
                after_kill=await to_the_end(serverdir.begin_serving),
            )
        )
        said = await self._child.expect(Listening, CannotListen)
        if isinstance(said, CannotListen):
            addresses = ", ".join(configured.addresses)
            raise Exit(
                ExitCode.PORT_IN_USE,
                f"devpi-server can't listen on {addresses}: {said.reason}",
                "free the port, or choose another one with --port",
            )
        self._queues = SendQueues(said.addresses)
        key = DerivedKey(said.derived_key, said.argon2)
        await to_the_end(note_derived_key, serverdir.own, key, kept=secret.own is not None)
        self._cleared = said.role != "replica"  # which looks for no half-made uploads
        if record.rotating:
            await to_the_end(record.recover_rotation)
            log.warning("finished a change of root's password that an earlier run had begun: it can be claimed")
            self._bootstrap.attach(record, secret.own)
        plugins = tuple((name, version) for name, version in configured.plugins)
        devpi = DevpiInfo(configured.version, plugins=plugins, outside_url=configured.outside_url)
        await self._watch(serverdir, devpi, said, record)

    async def _watch(self, serverdir: Serverdir, devpi: DevpiInfo, said: Listening, record: RootPasswordFile) -> None:
        """Tell everybody that devpi-server listens, and be ready when it truly answers; or return when it has ended."""
        devpi = replace(devpi, role=said.role, addresses=tuple(said.addresses))
        self._lifecycle.update(devpi=devpi)
        setter = Setter(self._child, serverdir, self._runtime)
        if said.root_password == "unusable":  # noqa: S105 - not a password
            await self._users.give_root_password(record, setter)
        if said.root_hash is not None:
            await setter.keep_root_hash(said.root_hash)
        self._bootstrap.devpi_runs(setter, said.role)
        self._users.begin(said.root_password, said.role)
        headers = {PROBE_HEADER: self._look_secret}
        self._client = DevpiClient(said.addresses[0], self._settings.monitor.request_timeout, headers)
        pid, primary = self._child.pid, lambda: self._child.primary
        self._health.watch(
            Serving(pid, self._client, serverdir.path, said.uuid, said.role, serverdir.lock.lost, primary)
        )
        ready = asyncio.ensure_future(self._health.wait_until_ready())
        ended = asyncio.ensure_future(self._child.exited())
        await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if ended.done():
            return
        ended.cancel()
        log.info("ready: devpi-server %s serves on %s", devpi.version, ", ".join(said.addresses))
        self._lifecycle.enter(Phase.READY)  # what listens for it logs what a person does next: that is the last line
        if self._given_is_old and said.role != "replica":
            self._aside = asyncio.create_task(self._users.report_unused_password(), name="given password")

    def _devpi_ended(self, code: int) -> NoReturn:
        """devpi-server ended by itself: its code becomes the container's."""
        mend = "its own log says why"
        if code < 0:
            name, hint = signal.Signals(-code).name, ""
            if code == -signal.SIGKILL:
                hint = ", most likely for want of memory"
                mend = "raise the memory limit; the orchestrator's own record tells whether that was it"
            reason, code = f"devpi-server was ended by {name}{hint}", 128 - code
        else:
            reason, code = f"devpi-server ended by itself with code {code}", code or 1
        self._health.process_ended(reason, mend)
        raise Exit(code, reason, mend)

    # --- the way down -------------------------------------------------------------------------------------------

    async def _stop(self) -> None:
        """Not ready at once; then let what runs finish, and end."""
        was = self._lifecycle.snapshot.phase
        self._lifecycle.enter(Phase.STOPPING)
        await self._within(_PATIENCE, self._bootstrap.settle())
        self._bootstrap.devpi_runs(None, "standalone")
        queues = None if was is Phase.FAILED else self._queues
        deadline = time.monotonic()
        if queues is not None:
            log.info("stopping: %.0f s for load balancers, then up to %.0f s for running transfers", *self._patience())
            await self._within(self._settings.stop.delay, asyncio.Event().wait())
            deadline = time.monotonic() + self._settings.stop.grace  # of drain and delivery together
            await self._child.send(Drain(self._settings.stop.grace))
            await self._within(self._settings.stop.grace + _PATIENCE, self._drained())
            self._child.signal(signal.SIGTERM)
            await self._within(_PATIENCE, self._child.exited())
        self._child.signal(signal.SIGKILL)
        code = await self._child.exited()
        self._health.watch(None)
        await self._clear_up(whole=self._cleared and self._cut == 0 and code == 0)
        if queues is not None:
            await self._deliver(queues, deadline)
        log.info("stopped")

    async def _clear_up(self, *, whole: bool) -> None:
        """Leave nothing half-made in the serverdir, whatever the end; nobody works there any more."""
        serverdir, self._serverdir = self._serverdir, None
        if serverdir is None:
            return
        try:
            await asyncio.to_thread(serverdir.clear_up, whole=whole)
        except OSError as error:
            log.warning("the serverdir's volume refuses to sync: %s", error.strerror)

    async def _drained(self) -> None:
        """Wait until devpi-server has drained and ended."""
        with contextlib.suppress(ChildEnded):
            self._cut = (await self._child.expect(Drained)).cut
            if self._cut:
                log.warning("%d transfers did not finish within the grace, and were cut", self._cut)
        await self._child.exited()

    async def _deliver(self, queues: SendQueues, deadline: float) -> None:
        """Wait, at most until `deadline`, for what the kernel still sends: it ends with a container's network."""
        if not (unsent := await asyncio.to_thread(queues.unsent)).connections:
            return
        left = max(0.0, deadline - time.monotonic())
        log.info("devpi-server has ended; %s still being delivered, for up to %.0f s", unsent, left)
        await self._within(left, queues.sent())
        if (unsent := await asyncio.to_thread(queues.unsent)).connections:
            log.warning("%s are not delivered, and are lost if the network ends with this process", unsent)

    def _patience(self) -> tuple[float, float]:
        return self._settings.stop.delay, self._settings.stop.grace

    async def _within(self, seconds: float, what: Awaitable[object]) -> None:
        """Wait for `what`, at most `seconds`, and no longer than until a second stop is asked for."""
        waits = {asyncio.ensure_future(what), asyncio.ensure_future(self._hurry.wait())}
        _, pending = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()

    async def _tick(self) -> None:
        while True:
            self._ticked = time.monotonic()
            await self._bootstrap.expire_if_due()
            await asyncio.sleep(_TICK)


def _read_text(path: Path) -> str | None:
    try:
        content = files.read_file(path, 1024)
    except OSError:
        return None
    return None if content is None else content.decode(errors="replace")
