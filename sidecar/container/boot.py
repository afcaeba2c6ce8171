"""The way up, as far as devpi-server's launch: understand the flags, open the serverdir, have a state prepared in it.

Everything here happens on the event loop; what touches the disk for long happens in a thread or in the child.
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
    """Takes the serverdir and the addresses, and has the features see to the state."""

    def __init__(self, settings: Settings, flags: list[str], lifecycle: Lifecycle, features: Features) -> None:
        self._settings = settings
        self._flags = flags
        self._lifecycle = lifecycle
        self._features = features
        self.serverdir: Serverdir | None = None
        """The serverdir, as soon as it is ours."""
        self.listeners = Listeners()
        """devpi-server's sockets, bound as soon as the serverdir is ours."""

    async def run(self, child: Child) -> Plan | None:
        """Everything up to the launch; None: the flags asked for a text, which is printed.

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
        """Have devpi's parser, in the child, understand the flags; None: they asked for a text, which is printed."""
        serverdir = self._settings.serverdir
        await child.send(
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
        answer = await child.expect(Configured, Refused, Done)
        if isinstance(answer, Refused):
            raise Exit(ExitCode.SETTINGS, answer.reason, answer.hint)
        return None if isinstance(answer, Done) else answer

    async def _open(self, configured: Configured, child: Child) -> Serverdir:
        """Lock the serverdir, bind devpi-server's sockets, and clear up what an earlier run left in the serverdir."""
        serverdir = Serverdir(Path(configured.serverdir), Storage(configured.storage))
        child.hand_over_lock(await to_the_end(serverdir.open))
        self.serverdir = serverdir  # not before: whoever else holds it has things there that are not to be cleared up
        await to_the_end(self.listeners.bind, configured)
        for feature in self._features:
            await feature.opened(serverdir)
        if (await to_the_end(mounts.under, serverdir.path)).in_memory:
            log.warning("the serverdir is on a tmpfs: all of it is lost with the container; mount a volume to keep it")
        if done := await to_the_end(serverdir.recover):
            log.warning("%s", done)
        return serverdir
