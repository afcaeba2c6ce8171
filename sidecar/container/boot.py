"""Start-up, until devpi-server's launch: parse the flags, open the serverdir, have the features prepare its state.

Everything runs on the event loop; slow disk access runs in a thread or in the child.
"""

from __future__ import annotations

import logging
from pathlib import Path

from sidecar.container.features import Features
from sidecar.container.listeners import Listeners
from sidecar.core.errors import Exit, ExitCode
from sidecar.core.lifecycle import DevpiInfo, Lifecycle
from sidecar.core.settings import DEFAULT_SERVERDIR, Settings
from sidecar.core.threads import to_the_end
from sidecar.devpi.process import Child
from sidecar.devpi.protocol import Configure, Configured, Done, Refused
from sidecar.features.hooks import Plan
from sidecar.storage import mounts
from sidecar.storage.inspection import Storage
from sidecar.storage.serverdir import Serverdir

log = logging.getLogger(__name__)


class Boot:
    """Locks the serverdir, binds the addresses, and has the features prepare the state."""

    def __init__(self, settings: Settings, flags: list[str], lifecycle: Lifecycle, features: Features) -> None:
        self._settings = settings
        self._flags = flags
        self._lifecycle = lifecycle
        self._features = features
        self.serverdir: Serverdir | None = None
        """The serverdir; None until it is locked."""
        self.listeners = Listeners()
        """devpi-server's sockets, bound once the serverdir is locked."""

    async def run(self, child: Child) -> Plan | None:
        """Do everything up to the launch. Return None if the flags only print a text.

        Raises Exit, ImportFailed, ChildEnded, OSError.
        """
        configured = await self.configure(child)
        if configured is None:
            return None
        for feature in self._features:
            configured = await feature.configured(configured)
        addresses = tuple(configured.addresses)
        self._lifecycle.learn(DevpiInfo(configured.version, addresses=addresses, outside_url=configured.outside_url))
        serverdir = await self._open(configured, child)
        plan = Plan(configured, serverdir, child, await to_the_end(serverdir.examine))
        for feature in self._features:
            plan = await feature.prepare(plan)
        return plan

    async def configure(self, child: Child) -> Configured | None:
        """Have devpi's parser, in the child, parse the flags. Return None if they only print a text."""
        serverdir = self._settings.serverdir
        await child.send(
            Configure(
                flags=self._flags,
                serverdir=None if serverdir is None else str(serverdir),
                default_serverdir=str(DEFAULT_SERVERDIR),
                port=self._settings.devpi_port,
                restrict_modify=self._settings.restrict_modify,
                root_pypi=self._settings.mirror.root_pypi,
                sidecar_host=self._settings.listen.host,
                sidecar_port=self._settings.listen.port,
                known_variables=sorted(self._settings.known_variables),
                unknown_variables=[name[:100] for name in self._settings.unknown_variables[:50]],
            )
        )
        answer = await child.expect(Configured, Refused, Done)
        if isinstance(answer, Refused):
            raise Exit(ExitCode.SETTINGS, answer.reason, answer.hint)
        return None if isinstance(answer, Done) else answer

    async def _open(self, configured: Configured, child: Child) -> Serverdir:
        """Lock the serverdir, bind devpi-server's sockets, and clear up what an earlier run left."""
        serverdir = Serverdir(Path(configured.serverdir), Storage(configured.storage))
        child.hand_over_lock(await to_the_end(serverdir.open))
        self.serverdir = serverdir  # not before the lock: `clear_up` must not touch another server's files
        await to_the_end(self.listeners.bind, configured)
        for feature in self._features:
            await feature.opened(serverdir)
        if (await to_the_end(mounts.under, serverdir.path)).in_memory:
            log.warning("the serverdir is on a tmpfs, so its data is lost with the container; mount a volume")
        if done := await to_the_end(serverdir.recover):
            log.warning("%s", done)
        return serverdir
