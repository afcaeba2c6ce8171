"""The features of a container, in the order in which their hooks are called; at shutdown, in reverse.

A new feature is created here, and nowhere else in this room.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from sidecar.core.board import Board
from sidecar.core.lifecycle import Lifecycle
from sidecar.core.settings import Settings
from sidecar.features.bootstrap.preparation import Bootstrap
from sidecar.features.credentials.keeper import Credentials
from sidecar.features.health.monitor import Health
from sidecar.features.hooks import Hooks
from sidecar.features.mirror.following import Mirror
from sidecar.features.numbers.counting import Counting
from sidecar.storage.runtime_dir import RuntimeDir

log = logging.getLogger(__name__)

Features = tuple[Hooks, ...]


def features(settings: Settings, lifecycle: Lifecycle, board: Board, runtime: RuntimeDir) -> Features:
    """Create all features. `board` shows their checks in the order of creation."""
    health = Health(lifecycle, board, settings.monitor)
    credentials = Credentials(lifecycle, board, settings.credentials, runtime)
    return (
        Bootstrap(lifecycle, board, settings.imports, credentials, project_list=settings.root_pypi_list),
        credentials,
        health,
        Mirror(board, settings.mirror),
        Counting(lifecycle, board, health),
    )


async def call_in_reverse(features: Features, hook: Callable[[Hooks], Awaitable[None]], patience: float) -> None:
    """Call a shutdown hook on all features, each for at most `patience` seconds. Failures are only logged."""
    for feature in reversed(features):
        try:
            async with asyncio.timeout(patience):
                await hook(feature)
        except TimeoutError:
            log.warning("the feature %s did not stop within %g s and was abandoned", feature.name, patience)
        except Exception:
            log.exception("internal error while stopping the feature %s", feature.name)
