"""The objects that handlers get from their application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from aiohttp import web

from sidecar.core.board import Board
from sidecar.core.feature import Feature, one_of
from sidecar.core.lifecycle import Lifecycle
from sidecar.core.surroundings import Surroundings
from sidecar.devpi.process import Child
from sidecar.web.admin_auth import Guard

F = TypeVar("F", bound=Feature)


@dataclass(frozen=True)
class Context:
    """Everything that handlers report or change."""

    lifecycle: Lifecycle
    board: Board
    features: tuple[Feature, ...]
    tick_age: Callable[[], float]
    """Seconds since the supervisor's last tick."""
    sidecar_version: str
    client_certificates: bool = False
    """Whether the admin routes also require a client certificate of a trusted CA."""
    child: Callable[[], Child] | None = None
    """Return the current devpi-server process."""
    name: str = "devpi"
    """The name of this instance, for people."""
    surroundings: Surroundings = field(default_factory=lambda: Surroundings("devpi"))
    patience: float = 10.0
    """Seconds without a tick after which `/livez` fails."""

    def of(self, kind: type[F]) -> F:
        """Return the feature of this class."""
        return one_of(self.features, kind)


CONTEXT = web.AppKey("context", Context)
GUARD = web.AppKey("guard", Guard)
