"""The seam for features: what the container, `/status` and `/metrics` may ask of each, whatever it is about."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TypeVar

from sidecar.core.sample import Family

Json = dict[str, object]


class Feature:
    """A part of the container that an operator can name. All hooks are optional; none may block the event loop.

    `features.hooks` adds those that speak of the serverdir and of devpi-server.
    """

    name = ""
    """As in messages about it: `credentials`."""

    async def run(self) -> None:
        """What goes on for the container's whole life, until it is cancelled.

        An exception, and a return, end the container with exit code 70.
        """
        await asyncio.Event().wait()

    async def stopping(self) -> None:
        """Before devpi-server drains, for a stop or a restart: settle what has begun, take on nothing new.

        Whatever takes longer than `container.supervisor.PATIENCE` is left to the next start; an exception is logged.
        """

    async def devpi_down(self) -> None:
        """devpi-server has ended: once for each that was told by `devpi_up`, even if that failed.

        Bounded, and its exceptions logged, as those of `stopping`, which may come twice.
        """

    def status(self) -> Json:
        """Its fields of `/status`, from memory, for anybody to read. An exception is that request's 500."""
        return {}

    def samples(self) -> Iterable[Family]:
        """Its families of `/metrics`, from memory, the empty ones too. An exception is that scrape's 500."""
        return ()


F = TypeVar("F", bound=Feature)


def one_of(features: Iterable[Feature], kind: type[F]) -> F:
    """The feature of this kind. Raises LookupError where there is none."""
    for feature in features:
        if isinstance(feature, kind):
            return feature
    raise LookupError(f"there is no feature {kind.__name__}")
