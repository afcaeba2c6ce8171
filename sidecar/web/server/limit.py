"""The connections that are open: so many and no more, for each takes a descriptor and memory."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Protocol


class Guest(Protocol):
    """A connection."""

    def cut(self) -> None:
        """End it now, whatever it still has to send."""


class Crowd:
    """Bounded; a newcomer is never turned away, for it may be a probe: who has been at rest for longest goes.

    Of TLS, those that have not ended their handshake have half of the room, and never take more: so they push out each
    other, those first that have not even sent its beginning. A probe sends that at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_halfway = most // 2
        self._silent: OrderedDict[Guest, None] = OrderedDict()
        self._greeting: OrderedDict[Guest, None] = OrderedDict()
        self._resting: OrderedDict[Guest, None] = OrderedDict()
        self._busy: set[Guest] = set()
        self._turnstile = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._resting) + len(self._busy) + self.halfway

    @property
    def halfway(self) -> int:
        """Those that have not ended their TLS handshake."""
        return len(self._silent) + len(self._greeting)

    def knock(self, guest: Guest) -> None:
        """A new one that is to begin a TLS handshake."""
        if self.halfway >= self._most_halfway:
            self._cut_first(self._silent or self._greeting)
        elif len(self) >= self._most:
            self._cut_first(self._resting or self._silent or self._greeting)
        self._silent[guest] = None

    def greets(self, guest: Guest) -> None:
        """It has sent the beginning of its handshake."""
        if guest in self._silent:  # else it was cut
            del self._silent[guest]
            self._greeting[guest] = None

    def come(self, guest: Guest) -> None:
        """A new one, at rest: it has asked nothing yet; with TLS, its handshake is done."""
        self._silent.pop(guest, None)
        self._greeting.pop(guest, None)
        self._resting[guest] = None
        if len(self) > self._most:
            self.cut_one()

    async def turn(self) -> None:
        """Wait for one's turn: whoever comes by here goes on one in each round of the event loop, so that those who
        do not come by here never wait for many.
        """
        async with self._turnstile:
            await asyncio.sleep(0)

    def works(self, guest: Guest) -> None:
        """A whole request of it is being answered; it isn't cut until it rests."""
        if guest in self._resting:  # else it was cut, or has gone, while it waited for its turn
            del self._resting[guest]
            self._busy.add(guest)

    def rests(self, guest: Guest) -> None:
        """Its request is answered."""
        if guest in self._busy:  # else it has gone meanwhile
            self._busy.remove(guest)
            self._resting[guest] = None

    def leave(self, guest: Guest) -> None:
        """It is closed."""
        self._silent.pop(guest, None)
        self._greeting.pop(guest, None)
        self._resting.pop(guest, None)
        self._busy.discard(guest)

    def cut_one(self) -> None:
        """Cut a silent one, or the one that has been at rest for longest, if any is, or in a handshake."""
        self._cut_first(self._silent or self._resting or self._greeting)

    def cut_all(self) -> None:
        """Cut them all."""
        guests = [*self._silent, *self._greeting, *self._resting, *self._busy]
        for each in (self._silent, self._greeting, self._resting):
            each.clear()
        self._busy.clear()
        for guest in guests:
            guest.cut()

    @staticmethod
    def _cut_first(guests: dict[Guest, None]) -> None:
        guest = next(iter(guests), None)
        if guest is not None:
            del guests[guest]
            guest.cut()
