"""The load generator, a separate process, for loopback only. Prints one JSON object.

  python -m bench.load open   --rate 500 --seconds 20 [--keep-alive] PORT PATH
  python -m bench.load closed --clients 8 --seconds 20 [--header 'NAME: VALUE'] [--post BODY] PORT PATH…
                              [--one-of 'NAME: VALUE' …]
  python -m bench.load turns  --clients 8 --seconds 20 --way 'PORT NAME: VALUE' --way … PATH…

`open` sends at fixed times, independent of the answers, and measures from the time at which a request was due: a
stall of the server counts for every request that it delays. `closed` has so many clients that each send, wait for
the answer, and send again, over the same connection if it is kept. `turns` is the same with two or more ways; all
clients change to another one four times a second, so that all ways see the same load of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import math
import random
import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench.report import percentile

MAX_WAITING = 800
"""Maximum of open requests; further ones are counted as `not sent`."""
TIMEOUT = 30.0
TURN = 0.25
"""Seconds after which the clients change to another way, in random order: otherwise, work that a server does once a
second would always hit the same way.
"""


class Client:
    """One HTTP/1.1 connection, reopened if it was closed."""

    def __init__(self, port: int, keep_alive: bool, headers: Sequence[str] = (), body: str | None = None) -> None:
        """`headers`: whole lines; `body`: JSON, for a POST instead of a GET."""
        self._port = port
        self._keep_alive = keep_alive
        self._method = "GET" if body is None else "POST"
        self._body = body or ""
        self._headers = "".join(f"{each}\r\n" for each in (*headers, *_headers_of(body)))
        self._socket: socket.socket | None = None

    async def ask(self, path: str) -> tuple[int, int]:
        """Send one request; return status and bytes of the body. Raises OSError, ValueError, TimeoutError."""
        async with asyncio.timeout(TIMEOUT):
            try:
                status, body, closes = await self._ask(path)
            except BaseException:
                self.close()
                raise
        if closes or not self._keep_alive:
            self.close()
        return status, body

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    async def _ask(self, path: str) -> tuple[int, int, bool]:
        loop = asyncio.get_running_loop()
        if self._socket is None:
            self._socket = socket.socket()
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(self._socket, ("127.0.0.1", self._port))
        kept = "keep-alive" if self._keep_alive else "close"
        asked = f"{self._method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nConnection: {kept}\r\n"
        await loop.sock_sendall(self._socket, f"{asked}{self._headers}\r\n{self._body}".encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += await self._more(loop)
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        headers = dict(line.split(b":", 1) for line in lines[1:])
        status = int(lines[0].split()[1])
        closes = headers.get(b"connection", b"").strip() == b"close"
        if headers.get(b"transfer-encoding", b"").strip() == b"chunked":
            return status, await self._chunks(loop, body), closes
        length = int(headers[b"content-length"])
        received = len(body)
        while received < length:
            received += len(await self._more(loop))
        return status, received, closes

    async def _chunks(self, loop: asyncio.AbstractEventLoop, data: bytes) -> int:
        """Read a chunked body, as of devpi's simple pages; return its bytes."""
        received = 0
        while True:
            while b"\r\n" not in data:
                data += await self._more(loop)
            size, _, data = data.partition(b"\r\n")
            length = int(size, 16)
            while len(data) < length + 2:
                data += await self._more(loop)
            data = data[length + 2 :]
            received += length
            if length == 0:
                return received

    async def _more(self, loop: asyncio.AbstractEventLoop) -> bytes:
        assert self._socket is not None
        if data := await loop.sock_recv(self._socket, 256 * 1024):
            return data
        raise ConnectionResetError("closed in the middle of an answer")


def _headers_of(body: str | None) -> tuple[str, ...]:
    if body is None:
        return ("Accept: */*",)
    return "Accept: application/json", "Content-Type: application/json", f"Content-Length: {len(body.encode())}"


class Tally:
    """Counters of answers, with their times."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.times: list[float] = []
        self.late: list[float] = []
        self.bytes = 0

    async def ask(self, client: Client, path: str, due: float) -> None:
        """Send one request, which was due at `due` of the monotonic clock."""
        self.late.append(time.monotonic() - due)
        try:
            status, received = await client.ask(path)
        except (OSError, ValueError, KeyError) as error:
            self.outcomes[type(error).__name__] += 1
        else:
            self.outcomes[str(status)] += 1
            self.bytes += received
        self.times.append(time.monotonic() - due)

    def summary(self, seconds: float) -> dict[str, Any]:
        times, late = sorted(self.times), sorted(self.late)
        return {
            "seconds": seconds,
            "outcomes": dict(self.outcomes),
            "bytes": self.bytes,
            **{name: percentile(times, share) for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))},
            "late_p99": percentile(late, 0.99),
        }


async def open_loop(port: int, path: str, rate: float, seconds: float, keep_alive: bool) -> dict[str, Any]:
    """Send requests at fixed times; with `keep_alive`, over as many connections as needed."""
    tally = Tally()
    idle: list[Client] = []
    waiting: set[asyncio.Task[None]] = set()

    async def ask(due: float) -> None:
        client = idle.pop() if idle else Client(port, keep_alive)
        await tally.ask(client, path, due)
        idle.append(client)

    began = time.monotonic() + 0.1
    for number in range(int(rate * seconds)):
        due = began + number / rate
        if (left := due - time.monotonic()) > 0:
            await asyncio.sleep(left)
        if len(waiting) >= MAX_WAITING:
            tally.outcomes["not sent"] += 1
            continue
        task = asyncio.create_task(ask(due))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
    if waiting:
        await asyncio.wait(waiting)
    for client in idle:
        client.close()
    return tally.summary(time.monotonic() - began)


async def closed_loop(
    port: int,
    paths: list[str],
    clients: int,
    seconds: float,
    headers: Sequence[str] = (),
    one_of: Sequence[str] = (),
    bodies: Sequence[str] = (),
) -> dict[str, Any]:
    """Run `clients` at once, each with requests for all paths in a loop; they get headers and bodies in turn."""
    began = time.monotonic()
    own = itertools.cycle([(*headers, each) for each in one_of] or [tuple(headers)])
    body = itertools.cycle(bodies or [None])
    (tally,) = await _again_and_again([lambda: Client(port, True, next(own), next(body))], paths, clients, seconds)
    return tally.summary(time.monotonic() - began)


async def in_turns(ways: Sequence[tuple[int, str]], paths: list[str], clients: int, seconds: float) -> dict[str, Any]:
    """As `closed_loop`, with ports and headers in turn; `ways` has a summary of each."""
    kinds = [partial(Client, port, True, [header]) for port, header in ways]
    tallies = await _again_and_again(kinds, paths, clients, seconds)
    return {"ways": [tally.summary(seconds / len(ways)) for tally in tallies]}


async def _again_and_again(
    kinds: Sequence[Callable[[], Client]], paths: list[str], clients: int, seconds: float
) -> list[Tally]:
    """Return a tally of each kind of client."""
    tallies = [Tally() for _ in kinds]
    turns = _turns(len(kinds), seconds)
    began = time.monotonic()

    async def run(start: int) -> None:
        own = [kind() for kind in kinds]
        for path in itertools.islice(itertools.cycle(paths), start, None):
            now = time.monotonic()
            if now >= began + seconds:
                break
            way = turns[int((now - began) / TURN)]
            await tallies[way].ask(own[way], path, now)
        for client in own:
            client.close()

    await asyncio.gather(*(run(number * len(paths) // clients) for number in range(clients)))
    return tallies


def _turns(ways: int, seconds: float) -> list[int]:
    """Return the way of each turn: all of them, each time in another order."""
    chance = random.Random(0)
    rounds = math.ceil(seconds / TURN / ways)
    return [way for _ in range(rounds) for way in chance.sample(range(ways), ways)]


def _way(said: str) -> tuple[int, str]:
    port, _, header = said.partition(" ")
    return int(port), header


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m bench.load")
    kinds = parser.add_subparsers(dest="kind", required=True)
    fixed = kinds.add_parser("open")
    fixed.add_argument("--rate", type=float, required=True)
    fixed.add_argument("--keep-alive", action="store_true")
    closed = kinds.add_parser("closed")
    closed.add_argument("--clients", type=int, required=True)
    closed.add_argument("--header", action="append", default=[], help="an additional header (repeatable)")
    closed.add_argument("--one-of", action="append", default=[], help="one of these headers for each client, in turn")
    closed.add_argument("--post", action="append", default=[], metavar="BODY", help="POST JSON, one of these for each")
    turns = kinds.add_parser("turns")
    turns.add_argument("--clients", type=int, required=True)
    turns.add_argument("--way", action="append", type=_way, required=True, help="a port, and a header for it")
    for kind in (fixed, closed):
        kind.add_argument("port", type=int)
    for kind in (fixed, closed, turns):
        kind.add_argument("--seconds", type=float, required=True)
        kind.add_argument("paths", nargs="+")
    given = parser.parse_args()
    gc.disable()  # so that our own pauses don't count
    # epoll's timeouts are whole milliseconds, select's are microseconds
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        if given.kind == "open":
            work = open_loop(given.port, given.paths[0], given.rate, given.seconds, given.keep_alive)
        elif given.kind == "turns":
            work = in_turns(given.way, given.paths, given.clients, given.seconds)
        else:
            work = closed_loop(
                given.port, given.paths, given.clients, given.seconds, given.header, given.one_of, given.post
            )
        print(json.dumps(runner.run(work)))


if __name__ == "__main__":
    main()
