"""The hooks of a feature that concern the serverdir and devpi-server; `core.feature` has the others."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.core.feature import Feature
from sidecar.devpi.process import Child
from sidecar.devpi.protocol import Configured, Listening, Message, Serve
from sidecar.storage.inspection import Content
from sidecar.storage.serverdir import Serverdir


@dataclass(frozen=True, slots=True)
class Plan:
    """The state that devpi-server will be launched on."""

    configured: Configured
    """The meaning of the flags, by devpi's parser."""
    serverdir: Serverdir
    """Locked, and cleared of an earlier run's leftovers."""
    child: Child
    """The process that makes states, then becomes devpi-server."""
    content: Content
    """The serverdir's content at the start."""
    root_hash: str | None = None
    """The digest of root's password hash, if known."""

    @property
    def is_new(self) -> bool:
        """Whether the state was made in this start."""
        return self.content is Content.EMPTY


@dataclass(frozen=True, slots=True)
class Running:
    """A listening devpi-server."""

    child: Child
    listening: Listening
    serverdir: Serverdir

    @property
    def is_replica(self) -> bool:
        """Whether its users and indexes are those of a primary."""
        return self.listening.role.lower() == "replica"


class Hooks(Feature):
    """A feature in a container's life. Hooks are called in the order of `container.features`, at shutdown in reverse.

    An exception of `configured`, `opened`, `prepare`, `launching` and `devpi_up` ends the container: Exit with its
    code, OSError (of the volume or the runtime directory) with 73, any other with 70. They have no time limit;
    `/readyz` reports the phase meanwhile.
    """

    async def configured(self, configured: Configured) -> Configured:
        """Check and change what the flags mean; nothing on disk was touched yet."""
        return configured

    async def opened(self, serverdir: Serverdir) -> None:
        """Use the serverdir, which is locked; an earlier run's leftovers are not finished or removed yet."""

    async def prepare(self, plan: Plan) -> Plan:
        """Make a state, or prepare the existing one, before devpi-server starts."""
        return plan

    async def launching(self, serve: Serve, plan: Plan) -> Serve:
        """Change what devpi-server is started with; at each start."""
        return serve

    def hear(self, message: Message) -> None:
        """Handle an unasked message of devpi-server, on the event loop. Must not raise."""

    async def devpi_up(self, running: Running) -> None:
        """Use a devpi-server that listens; at each start, before it is ready."""
