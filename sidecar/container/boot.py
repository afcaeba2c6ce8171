"""The way up, as far as devpi-server's launch: understand the flags, open the serverdir, prepare a state in it.

Everything here happens on the event loop; what touches the disk for long happens in a thread or in the child.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from sidecar.container.listeners import Listeners
from sidecar.core import files
from sidecar.core.errors import Exit, ExitCode
from sidecar.core.lifecycle import DevpiInfo, ImportState, Lifecycle, Notice
from sidecar.core.settings import DEFAULT_SERVERDIR, Settings
from sidecar.core.threads import to_the_end
from sidecar.devpi.process import Child
from sidecar.devpi.protocol import Configure, Configured, Done, Refused
from sidecar.features.bootstrap import import_status, unused
from sidecar.features.bootstrap.initial_state import InitialState, check_first_state, check_storage
from sidecar.features.credentials.claims import Bootstrap
from sidecar.features.credentials.login_secret import copy_provided_secret, read_adoptable
from sidecar.features.credentials.secrets import AdminToken, CredentialsError, secure_directory
from sidecar.features.credentials.users import Users
from sidecar.storage import mounts
from sidecar.storage.inspection import Content, Storage
from sidecar.storage.runtime_dir import RuntimeDir
from sidecar.storage.serverdir import Serverdir

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Booted:
    """All is there that devpi-server is launched with."""

    configured: Configured
    """What devpi's parser made of the flags."""
    serverdir: Serverdir
    """Locked, with a whole state in it."""
    listeners: Listeners
    """Bound, not listening yet."""
    root_hash: str | None
    """The digest of root's password hash, where it is known."""
    provided_is_old: bool
    """A root password is given, and there was one before."""


class Boot:
    """Takes the serverdir, and sees to the state in it."""

    def __init__(
        self,
        settings: Settings,
        flags: list[str],
        child: Child,
        lifecycle: Lifecycle,
        bootstrap: Bootstrap,
        users: Users,
        runtime: RuntimeDir,
    ) -> None:
        self._settings = settings
        self._flags = flags
        self._child = child
        self._lifecycle = lifecycle
        self._bootstrap = bootstrap
        self._users = users
        self._runtime = runtime
        self._provided_password = settings.credentials.root_password
        self.serverdir: Serverdir | None = None
        """The serverdir, as soon as it is ours."""
        self.listeners = Listeners()
        """devpi-server's sockets, bound as soon as the serverdir is ours."""

    async def run(self) -> Booted | None:
        """Everything up to the launch; None: the flags asked for a text, which is printed.

        Raises Exit, ImportFailed, ChildEnded, CredentialsError, OSError.
        """
        configured = await self._understand()
        if configured is None:
            return None
        serverdir = await self._open(configured)
        return await self._prepare(serverdir, configured)

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
            raise Exit(ExitCode.SETTINGS, answer.reason, answer.hint)
        if isinstance(answer, Done):
            return None
        if answer.root_password is not None:
            self._take_password(answer.root_password)
        await to_the_end(check_first_state, answer, self._settings.imports)
        if answer.secretfile is not None:  # a mistake in the flags, too, is found before the serverdir is touched
            try:
                copy = await to_the_end(copy_provided_secret, Path(answer.secretfile), self._runtime.path)
            except CredentialsError as error:
                raise Exit(ExitCode.SETTINGS, error.reason, error.hint) from error
            answer = replace(answer, secretfile=str(copy))
        devpi = DevpiInfo(answer.version, addresses=tuple(answer.addresses), outside_url=answer.outside_url)
        self._lifecycle.update(devpi=devpi)
        return answer

    def _take_password(self, given: str) -> None:
        """root's password by devpi's configuration file, which a variable overrides, as devpi's tools have it."""
        if self._provided_password is None:
            self._provided_password = self._users.provided_password = given
        elif self._provided_password != given:
            reason = "root-passwd in devpi-server's configuration file is not used: DEVPI_PASSWORD is another one"
            self._lifecycle.notice(Notice("configuration", reason, "keep one of them"))

    async def _open(self, configured: Configured) -> Serverdir:
        """Lock the serverdir, bind devpi-server's sockets, and clear up what an earlier run left in the serverdir."""
        serverdir = Serverdir(Path(configured.serverdir), Storage(configured.storage))
        self._child.hand_over_lock(await to_the_end(serverdir.open))
        self.serverdir = serverdir  # not before: whoever else holds it has things there that are not to be cleared up
        await to_the_end(self.listeners.bind, configured)
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

    async def _prepare(self, serverdir: Serverdir, configured: Configured) -> Booted:
        """Make the first state where there is none."""
        content = await to_the_end(serverdir.examine)
        if content is Content.EMPTY:
            root_hash = await self._make_first_state(serverdir, configured)
            return Booted(configured, serverdir, self.listeners, root_hash, provided_is_old=False)
        if content is Content.FOREIGN:
            log.warning("the serverdir holds a devpi state that was not made here; it is taken over as it is")
            await to_the_end(files.remove, serverdir.import_record)  # of an import that this state is not of
            await to_the_end(serverdir.adopt)
        imports = self._settings.imports
        if not imports.ignore_init_files:
            find = functools.partial(unused.notices, replica=configured.replica)
            self._lifecycle.notice(*await to_the_end(find, imports.init_dir, serverdir.import_record))
        kept = await to_the_end(import_status.load, serverdir.import_record)
        if kept is not None and kept[0].state is ImportState.COMPLETED:  # a failed one left no state
            self._lifecycle.update(imported=kept[0])
        root_hash = await to_the_end(_read_text, serverdir.root_hash)
        old = self._provided_password is not None
        return Booted(configured, serverdir, self.listeners, root_hash, provided_is_old=old)

    async def _make_first_state(self, serverdir: Serverdir, configured: Configured) -> str | None:
        """Initialise or import. Returns the digest of root's hash, where it is known."""
        check_storage(serverdir.storage)  # again: now nobody else can change what is there
        if configured.secretfile is None:
            await to_the_end(read_adoptable, serverdir.path)  # a mistake in it is found before there is a state
        first = InitialState(
            serverdir,
            self._child,
            self._lifecycle,
            self._settings.imports,
            self._provided_password,
            project_list=self._settings.root_pypi_list,
        )
        return (await first.make()).root_hash


def _read_text(path: Path) -> str | None:
    try:
        content = files.read_file(path, 1024)
    except OSError:
        return None
    return None if content is None else content.decode(errors="replace")
