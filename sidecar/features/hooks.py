"""The rest of the seam: the hooks that bring a feature together with the serverdir and with devpi-server."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.core.feature import Feature
from sidecar.devpi.process import Child
from sidecar.devpi.protocol import Configured, Listening, Message, Serve
from sidecar.storage.inspection import Content
from sidecar.storage.serverdir import Serverdir


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known of the state that devpi-server will be launched on."""

    configured: Configured
    """What devpi's parser made of the flags."""
    serverdir: Serverdir
    """Locked, and cleared of what an earlier run left."""
    child: Child
    """The process that makes states, and then becomes devpi-server."""
    content: Content
    """What the serverdir held at the start."""
    root_hash: str | None = None
    """The digest of root's password hash, where it is known."""

    @property
    def is_new(self) -> bool:
        """Whether the state was made in this start."""
        return self.content is Content.EMPTY


@dataclass(frozen=True, slots=True)
class Running:
    """A devpi-server that listens."""

    child: Child
    listening: Listening
    serverdir: Serverdir

    @property
    def is_replica(self) -> bool:
        """Whether its users and indexes are another one's."""
        return self.listening.role.lower() == "replica"


class Hooks(Feature):
    """A feature in a container's life. The hooks are called feature by feature in the order of `FEATURES`.

    On the way down it is the other way round. What `configured`, `opened`, `prepare`, `launching` and `devpi_up` raise
    ends the container: Exit with its code, OSError (the volume or the runtime directory refuses) with 73, all else
    with 70. They may take as long as they need; `/readyz` says the phase meanwhile.
    """

    async def configured(self, configured: Configured) -> Configured:
        """The flags are understood, and nothing on disk is touched yet: find mistakes; may change what is meant."""
        return configured

    async def opened(self, serverdir: Serverdir) -> None:
        """The serverdir is locked; what an earlier run left is still to be finished or thrown away."""

    async def prepare(self, plan: Plan) -> Plan:
        """Make a state where there is none, or see to the one that is there; before devpi-server."""
        return plan

    async def launching(self, serve: Serve, plan: Plan) -> Serve:
        """What devpi-server is started with; at each start of one."""
        return serve

    def hear(self, message: Message) -> None:
        """devpi-server says something unasked; at once, on the event loop. Must not raise."""

    async def devpi_up(self, running: Running) -> None:
        """devpi-server listens; at each start of one, before this is ready."""
