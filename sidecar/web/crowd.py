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
    """Bounded; a newcomer is never turned away, for it may be a probe: who has been at rest for longest goes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._resting: OrderedDict[Guest, None] = OrderedDict()
        self._busy: set[Guest] = set()
        self._turnstile = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._resting) + len(self._busy)

    def come(self, guest: Guest) -> None:
        """A new one, at rest: it has asked nothing yet."""
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
        self._resting.pop(guest, None)
        self._busy.discard(guest)

    def cut_one(self) -> None:
        """Cut the one that has been at rest for longest, if any is."""
        if self._resting:
            guest, _ = self._resting.popitem(last=False)
            guest.cut()

    def cut_all(self) -> None:
        """Cut them all."""
        guests = [*self._resting, *self._busy]
        self._resting.clear()
        self._busy.clear()
        for guest in guests:
            guest.cut()
