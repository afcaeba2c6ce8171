"""The maximum number of open connections: each takes a descriptor and memory."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Protocol


class Evictable(Protocol):
    """A connection."""

    def cut(self) -> None:
        """Close it now and discard unsent bytes."""


class ConnectionLimit:
    """The open connections. A new one is always accepted, because it may be a probe: the longest idle one is cut.

    With TLS, at most half of them may be in the handshake, so these cut each other; first those that have not sent its
    first record, which a probe sends at once.
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
        """The number of connections in the TLS handshake."""
        return len(self._silent) + len(self._greeting)

    def knock(self, client: Evictable) -> None:
        """Add one that has not started its TLS handshake."""
        if self.halfway >= self._most_halfway:
            self._evict_first(self._silent or self._greeting)
        elif len(self) >= self._most:
            self._evict_first(self._resting or self._silent or self._greeting)
        self._silent[client] = None

    def greets(self, client: Evictable) -> None:
        """Its first handshake record has arrived."""
        if client in self._silent:  # otherwise it was cut
            del self._silent[client]
            self._greeting[client] = None

    def come(self, client: Evictable) -> None:
        """Add one, idle, after its TLS handshake if it has one."""
        self._silent.pop(client, None)
        self._greeting.pop(client, None)
        self._resting[client] = None
        if len(self) > self._most:
            self.evict_one()

    async def turn(self) -> None:
        """Wait for one's turn: one caller continues in each round of the event loop, so others never wait for many."""
        async with self._turnstile:
            await asyncio.sleep(0)

    def works(self, client: Evictable) -> None:
        """Mark it as busy: it isn't cut until it rests."""
        if client in self._resting:  # otherwise it was cut or closed while it waited for its turn
            del self._resting[client]
            self._busy.add(client)

    def rests(self, client: Evictable) -> None:
        """Mark it as idle."""
        if client in self._busy:  # otherwise it was closed meanwhile
            self._busy.remove(client)
            self._resting[client] = None

    def leave(self, client: Evictable) -> None:
        """Remove it: it is closed."""
        self._silent.pop(client, None)
        self._greeting.pop(client, None)
        self._resting.pop(client, None)
        self._busy.discard(client)

    def evict_one(self) -> None:
        """Cut the longest silent one, otherwise the longest idle one, otherwise one in the handshake."""
        self._evict_first(self._silent or self._resting or self._greeting)

    def evict_all(self) -> None:
        """Cut all."""
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
