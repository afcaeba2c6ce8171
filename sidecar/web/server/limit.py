"""The connections that are open: so many and no more, for each takes a descriptor and memory."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Protocol


class Evictable(Protocol):
    """A connection."""

    def cut(self) -> None:
        """End it now, whatever it still has to send."""


class ConnectionLimit:
    """Bounded; a newcomer is never turned away, for it may be a probe: who has been at rest for longest goes.

    Of TLS, those that have not ended their handshake have half of the room, and never take more: so they push out each
    other, those first that have not even sent its beginning. A probe sends that at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_halfway = most // 2
        self._silent: OrderedDict[Evictable, None] = OrderedDict()
        self._greeting: OrderedDict[Evictable, None] = OrderedDict()
        self._resting: OrderedDict[Evictable, None] = OrderedDict()
        self._busy: set[Evictable] = set()
        self._turnstile = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._resting) + len(self._busy) + self.halfway

    @property
    def halfway(self) -> int:
        """Those that have not ended their TLS handshake."""
        return len(self._silent) + len(self._greeting)

    def knock(self, client: Evictable) -> None:
        """A new one that is to begin a TLS handshake."""
        if self.halfway >= self._most_halfway:
            self._evict_first(self._silent or self._greeting)
        elif len(self) >= self._most:
            self._evict_first(self._resting or self._silent or self._greeting)
        self._silent[client] = None

    def greets(self, client: Evictable) -> None:
        """It has sent the beginning of its handshake."""
        if client in self._silent:  # else it was cut
            del self._silent[client]
            self._greeting[client] = None

    def come(self, client: Evictable) -> None:
        """A new one, at rest: it has asked nothing yet; with TLS, its handshake is done."""
        self._silent.pop(client, None)
        self._greeting.pop(client, None)
        self._resting[client] = None
        if len(self) > self._most:
            self.evict_one()

    async def turn(self) -> None:
        """Wait for one's turn: whoever comes by here goes on one in each round of the event loop, so that those who
        do not come by here never wait for many.
        """
        async with self._turnstile:
            await asyncio.sleep(0)

    def works(self, client: Evictable) -> None:
        """A whole request of it is being answered; it isn't cut until it rests."""
        if client in self._resting:  # else it was cut, or has gone, while it waited for its turn
            del self._resting[client]
            self._busy.add(client)

    def rests(self, client: Evictable) -> None:
        """Its request is answered."""
        if client in self._busy:  # else it has gone meanwhile
            self._busy.remove(client)
            self._resting[client] = None

    def leave(self, client: Evictable) -> None:
        """It is closed."""
        self._silent.pop(client, None)
        self._greeting.pop(client, None)
        self._resting.pop(client, None)
        self._busy.discard(client)

    def evict_one(self) -> None:
        """Cut a silent one, or the one that has been at rest for longest, if any is, or in a handshake."""
        self._evict_first(self._silent or self._resting or self._greeting)

    def evict_all(self) -> None:
        """Cut them all."""
        clients = [*self._silent, *self._greeting, *self._resting, *self._busy]
        for each in (self._silent, self._greeting, self._resting):
            each.clear()
        self._busy.clear()
        for client in clients:
            client.cut()

    @staticmethod
    def _evict_first(clients: dict[Evictable, None]) -> None:
        client = next(iter(clients), None)
        if client is not None:
            del clients[client]
            client.cut()
