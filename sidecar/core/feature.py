"""The interface that each feature implements for the container, `/status` and `/metrics`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TypeVar

from sidecar.core.sample import Family

Json = dict[str, object]


class Feature:
    """A part of the container that an operator can name. All hooks are optional; none may block the event loop.

    `features.hooks` adds the hooks for the serverdir and devpi-server.
    """

    name = ""
    """Its name in messages: `credentials`."""

    async def run(self) -> None:
        """Run for the container's whole life, until cancelled.

        An exception or a return ends the container with exit code 70.
        """
        await asyncio.Event().wait()

    async def stopping(self) -> None:
        """Finish running work and start none. Called before devpi-server drains, for a stop or a restart.

        Work that takes longer than `container.supervisor.PATIENCE` is left to the next start. Exceptions are logged.
        """

    async def devpi_down(self) -> None:
        """React to the exit of devpi-server. Called once for each `devpi_up`, even if that failed.

        Limited in time like `stopping`, which may be called twice. Exceptions are logged.
        """

    def status(self) -> Json:
        """Its fields of `/status`, from memory; anybody may read them. After an exception that request returns 500."""
        return {}

    def samples(self) -> Iterable[Family]:
        """Its families of `/metrics`, from memory, including empty ones. After an exception that scrape returns 500."""
        return ()


F = TypeVar("F", bound=Feature)


def one_of(features: Iterable[Feature], kind: type[F]) -> F:
    """Return the feature of this kind. Raises LookupError if there is none."""
    for feature in features:
        if isinstance(feature, kind):
            return feature
    raise LookupError(f"there is no feature {kind.__name__}")
