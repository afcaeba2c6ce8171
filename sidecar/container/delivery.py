"""What the kernel still has to send for devpi-server after that has exited.

For waitress an answer is sent once the kernel has accepted its last byte; up to 4 MB of it may still be in the
socket's send queue. A plain host's kernel continues sending. A container's end removes its network, and the queues
with it.

The queues are read from `/proc/self/net/tcp` and `tcp6`: a closed socket has no descriptor for TIOCOUTQ.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

_LOOK_EVERY = 0.25
"""Minimum seconds between two reads of the tables."""
_REST = 10.0
"""The pause after a read, as a multiple of its duration: with 5,000 sockets a read takes 40 to 75 ms of CPU."""
_ESTABLISHED, _FIN_WAIT1, _CLOSE_WAIT, _LAST_ACK, _CLOSING = "01", "04", "08", "09", "0B"
_SENDING = {_ESTABLISHED: 0, _CLOSE_WAIT: 0, _FIN_WAIT1: 1, _LAST_ACK: 1, _CLOSING: 1}
"""State → how much of its `tx_queue` is the FIN, which is no byte of an answer: a client that vanished with its whole
answer never acknowledges the FIN. In other states nothing is left to send (FIN_WAIT2, TIME_WAIT), nothing was sent yet
(SYN_RECV), or the column means something else (LISTEN).
"""
_TABLES = {4: Path("/proc/self/net/tcp"), 6: Path("/proc/self/net/tcp6")}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_EVERY_IPV4, _EVERY_IPV6 = ipaddress.IPv4Address(0), ipaddress.IPv6Address(0)


@dataclass(frozen=True, slots=True)
class Unsent:
    """What was not delivered yet at one instant."""

    connections: int = 0
    bytes: int = 0
    """Bytes of answers that were not sent, or not acknowledged."""

    def __str__(self) -> str:
        return f"{self.bytes} bytes on {self.connections} connection{'' if self.connections == 1 else 's'}"


class SendQueues:
    """The send queues of all connections accepted at `addresses`: `http://host:port`, or `unix:path`.

    Unix sockets have none: what is written to one reaches its reader at once.
    """

    def __init__(self, addresses: Sequence[str], tables: dict[int, Path] = _TABLES) -> None:
        self._listeners: dict[int, set[Address]] = {}
        """Port → addresses."""
        versions = set()
        for address in addresses:
            if not address.startswith("unix:"):
                parts = urlsplit(address)
                host = ipaddress.ip_address((parts.hostname or "").partition("%")[0])
                versions.add(host.version)
                self._listeners.setdefault(parts.port or 0, set()).add(_plain(host))
        self._tables = [tables[version] for version in sorted(versions)]  # without IPv6 there is no tcp6
        self._refused: set[Path] = set()

    def unsent(self) -> Unsent:
        """Read the tables, in milliseconds per 1,000 sockets. An unreadable one is logged once and skipped."""
        connections = size = 0
        for table in self._tables:
            try:
                lines = table.read_bytes().decode("ascii").splitlines()[1:]
                found = [queued for line in lines if (queued := self._queued(line)) > 0]
            except (OSError, ValueError, IndexError) as error:
                if table not in self._refused:
                    self._refused.add(table)
                    log.warning("can't read %s, so a stop can't wait for undelivered answers: %s", table, error)
                continue
            connections += len(found)
            size += sum(found)
        return Unsent(connections, size)

    async def sent(self) -> None:
        """Wait until nothing is unsent. Reads in a thread, so as not to block the event loop."""
        while True:
            unsent, spent = await asyncio.to_thread(self._measure)
            if not unsent.connections:
                return
            await asyncio.sleep(max(_LOOK_EVERY, _REST * spent))

    def _measure(self) -> tuple[Unsent, float]:
        """Return what is unsent and the CPU time of looking; on a busy machine the time by the clock is much longer."""
        begun = time.thread_time()
        return self.unsent(), time.thread_time() - begun

    def _queued(self, line: str) -> int:
        """Return the bytes of answers in the send queue of the socket that a line of a table describes."""
        _, local, _, state, queues = line.split(None, 5)[:5]
        if state not in _SENDING or queues.startswith("00000000:"):  # first: cheap, and excludes most lines
            return 0
        host, _, port = local.partition(":")
        ours = self._listeners.get(int(port, 16))
        if ours is None or not ours & {_address(host), _EVERY_IPV4, _EVERY_IPV6}:
            return 0
        return int(queues.partition(":")[0], 16) - _SENDING[state]


def _address(words: str) -> Address:
    """Parse an address of a table: words of 32 bits in the machine's byte order."""
    raw = b"".join(int(words[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(words), 8))
    return _plain(ipaddress.ip_address(raw))


def _plain(address: Address) -> Address:
    """Return `address`, or the IPv4 address that it maps."""
    return getattr(address, "ipv4_mapped", None) or address
