"""What handlers get from their application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from sidecar.core.lifecycle import Lifecycle
from sidecar.core.surroundings import Surroundings
from sidecar.devpi.process import Child
from sidecar.features.credentials.claims import Bootstrap
from sidecar.features.health.monitor import Health
from sidecar.features.health.pace import Pace
from sidecar.storage.usage import Usage
from sidecar.web.admin_auth import Guard


@dataclass(frozen=True)
class Context:
    """All that the HTTP app speaks of or acts on."""

    lifecycle: Lifecycle
    health: Health
    bootstrap: Bootstrap
    tick_age: Callable[[], float]
    """Seconds since the supervisor's last tick."""
    sidecar_version: str
    client_certificates: bool = False
    """Whether the admin routes take those alone who came with a certificate that a trusted CA signed."""
    child: Child | None = None
    usage: Usage | None = None
    pace: Pace | None = None
    name: str = "devpi"
    """What people call this instance."""
    surroundings: Surroundings = field(default_factory=lambda: Surroundings("devpi"))
    patience: float = 10.0
    """Seconds without a tick after which `/livez` gives the process up."""


CONTEXT = web.AppKey("context", Context)
GUARD = web.AppKey("guard", Guard)
