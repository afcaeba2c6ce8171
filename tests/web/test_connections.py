"""Crowds of clients, slow ones and silent ones: probes still get answers, and resources stay bounded."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import astuple
from pathlib import Path

import pytest

from sidecar.core.settings import TlsSettings
from sidecar.web import admin_auth
from sidecar.web.app import make_app
from sidecar.web.context import CONTEXT, GUARD
from sidecar.web.page import stream
from sidecar.web.page.stream import HUB
from sidecar.web.server import connection, listener
from sidecar.web.server import site as server
from sidecar.web.server.limit import ConnectionLimit
from sidecar.web.server.tls import Tls
from tests.support.certificates import Authority
from tests.support.fake_devpi import eventually
from tests.web.conftest import ADMIN, Site

pytestmark = pytest.mark.alone

GET = b"GET /livez HTTP/1.1\r\nHost: h\r\n"
POST = b"POST /bootstrap/rotate HTTP/1.1\r\nHost: h\r\nAuthorization: " + ADMIN["Authorization"].encode() + b"\r\n"
Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    """Allow both ends of 2,000 connections, and restore the limit afterwards."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[1], 6000), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
async def clients(site: Site) -> AsyncIterator[list[Client]]:
    """Collect a test's connections, and close them at its end."""
    opened: list[Client] = []
    yield opened
    for _, writer in opened:
        writer.transport.abort()


async def connect(site: Site, clients: list[Client], number: int = 1) -> Client:
    """Open `number` connections, and return the last one."""
    for _ in range(number):
        clients.append(await asyncio.open_connection("127.0.0.1", site.web.port))
    return clients[-1]


async def until_cut(client: Client) -> float:
    """Return the seconds until the server ends the connection."""
    begun = time.monotonic()
    try:
        async with asyncio.timeout(10):
            while await client[0].read(2**16):
                pass
    except ConnectionError:
        pass
    return time.monotonic() - begun


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give clients less time."""
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)


# --- crowds --------------------------------------------------------------------------------------------------------


async def test_two_thousand_idle_connections(site: Site, clients: list[Client]) -> None:
    """During and after the connects, 99 of 100 probes take at most 50 ms; few connections are kept."""
    times: list[float] = []

    async def probe(number: int) -> None:
        for _ in range(number):
            begun = time.monotonic()
            answer = await site.raw(GET + b"Connection: close\r\n\r\n")
            times.append(time.monotonic() - begun)
            assert answer.startswith(b"HTTP/1.1 200 OK")

    opening = asyncio.create_task(connect(site, clients, 2000))
    while not opening.done():
        await probe(1)
    await opening
    await probe(200)
    assert len(site.web.limit) <= server.MOST
    assert len(times) >= 200
    assert sorted(times)[len(times) * 99 // 100] <= 0.05


@pytest.mark.parametrize("secure", [False, True])
async def test_all_that_may_be_answered_for_long(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: bool
) -> None:
    """With the maximum of event streams and wrong tokens, from many sources, and a crowd of others, probes get
    through, and the limit of connections holds.
    """
    monkeypatch.setattr(admin_auth, "DELAY", 30.0)
    authority = Authority(tmp_path)
    tls, client = None, None
    if secure:
        tls, client = Tls(TlsSettings(*astuple(authority.issue("server")), None)).context, authority.client()
    web = await server.serve(make_app(site.web.runner.app[CONTEXT]), "127.0.0.1", 0, tls=tls)
    opened: list[Client] = []

    async def ask(head: bytes, number: int = 1) -> Client:
        source = (f"127.0.0.{2 + number % 20}", 0)
        name = "localhost" if secure else None
        opened.append(
            await asyncio.open_connection("127.0.0.1", web.port, ssl=client, server_hostname=name, local_addr=source)
        )
        opened[-1][1].write(head)
        return opened[-1]

    try:
        most, streams, held_back = web.limit._most, web.runner.app[HUB], web.runner.app[GUARD]
        for number in range(most):
            await ask(b"GET /events HTTP/1.1\r\nHost: h\r\n\r\n", number)
        for number in range(most):
            await ask(b"GET /bootstrap HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer wrong\r\n\r\n", number)
        await eventually(lambda: len(web.limit._busy) == streams.most + held_back.most)
        assert (200 if not secure else 72, 32) == (len(streams), held_back._held_back)
        for _ in range(most):
            await ask(b"")
        for _ in range(10):
            reader, _ = await ask(GET + b"Connection: close\r\n\r\n")
            assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"ok")
        running = web.runner.server
        assert running is not None
        await eventually(lambda: len(running.connections) <= most)
        assert most - 40 == len(web.limit._busy)
    finally:
        for _, writer in opened:
            writer.transport.abort()
        await web.stop()


@pytest.mark.parametrize("number", [1, 50])
async def test_where_all_are_busy_a_newcomer_is_closed(
    site: Site, clients: list[Client], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Its descriptor is free again, however many connect at once."""
    monkeypatch.setattr(site.web.limit, "_most", 2)
    for reader, writer in [await connect(site, clients) for _ in range(2)]:
        writer.write(b"GET /events HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readuntil(b"event: hello")
    assert site.web.runner.server is not None
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    late = await asyncio.gather(*(connect(site, clients) for _ in range(number)))
    for each in late:
        assert await until_cut(each) < 5
        each[1].close()
        await asyncio.wait_for(each[1].wait_closed(), 5)
    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)  # noqa: PTH208
    assert (2, 2) == (len(site.web.limit), len(site.web.runner.server.connections))


async def test_who_rests_longest_goes_first(site: Site, clients: list[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection with a recent request is kept before those without one."""
    monkeypatch.setattr(site.web.limit, "_most", 10)
    asking = await connect(site, clients)
    await connect(site, clients, 9)
    asking[1].write(GET + b"\r\n")
    await asking[0].readuntil(b"ok")
    await connect(site, clients, 5)
    assert (await site.get("/livez")).body == b"ok"
    asking[1].write(GET + b"\r\n")
    assert await asyncio.wait_for(asking[0].readuntil(b"ok"), 5)
    assert await until_cut(clients[1]) < 5


async def test_who_is_answered_is_not_cut(site: Site, clients: list[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    """A running claim finishes, however many connect meanwhile."""
    monkeypatch.setattr(site.web.limit, "_most", 4)
    claiming, go = asyncio.Event(), asyncio.Event()

    async def claim(_address: str) -> str:
        claiming.set()
        await go.wait()
        return "the password"

    monkeypatch.setattr(site.credentials, "claim", claim)
    answer = asyncio.create_task(site.ask("POST", "/bootstrap/root-password", headers=ADMIN))
    await claiming.wait()
    await connect(site, clients, 20)
    go.set()
    assert (await answer).json["password"] == "the password"


async def test_descriptors_run_out(site: Site, clients: list[Client], caplog: pytest.LogCaptureFixture) -> None:
    """If the process can't accept another connection, the oldest is closed, and one line is logged."""
    taken: list[int] = []
    await connect(site, clients, 20)
    waiting = [socket.socket() for _ in range(5)]
    assert (await site.get("/livez")).status == 200
    await site.session.close()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 1, hard))  # noqa: PTH208
        while True:
            try:
                taken.append(os.dup(0))
            except OSError:
                break
        for each in waiting:
            each.setblocking(False)
            await asyncio.get_running_loop().sock_connect(each, ("127.0.0.1", site.web.port))
            await asyncio.get_running_loop().sock_sendall(each, GET + b"\r\n")
        for each in waiting:
            answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(each, 1000), 5)
            assert answer.startswith(b"HTTP/1.1 200 OK")
    finally:
        for each in waiting:
            each.close()
        for descriptor in taken:
            os.close(descriptor)
    assert 1 == sum("can't accept more" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("limits", "room", "after"),
    [((1024, 4096), 256, 1024), ((256, 4096), 256, 1024), ((256, 256), 128, 256), ((100, 100), 16, 100)],
)
def test_room_by_the_limit_of_descriptors(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], room: int, after: int
) -> None:
    """The soft limit is raised as needed; a low hard limit allows fewer connections."""
    current = [limits]
    monkeypatch.setattr(resource, "getrlimit", lambda _: current[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: current.append(new))
    assert listener.room(256) == room
    assert current[-1][0] == after


# --- slow ones -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("head", [b"", b"G", GET, GET + b"X: "])
async def test_a_head_that_does_not_come(site: Site, clients: list[Client], head: bytes) -> None:
    """The connection is closed, whatever the client has sent of the head."""
    client = await connect(site, clients)
    client[1].write(head)
    assert 0.1 < await until_cut(client) < 5
    assert len(site.web.limit) == 0


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("first", [b"", GET + b"\r\n"])
async def test_slowloris(site: Site, clients: list[Client], first: bytes) -> None:
    """An occasional byte doesn't prolong the time for a head, also after an answer."""
    client = await connect(site, clients)
    if first:
        client[1].write(first)
        await client[0].readuntil(b"ok")

    async def drip() -> None:
        for byte in GET + b"X: " + b"x" * 1000:
            client[1].write(bytes([byte]))
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    assert 0.1 < await until_cut(client) < 5
    dripping.cancel()


async def test_a_kept_connection_may_rest(site: Site, clients: list[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    """A client has more time between two requests than within one."""
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    client = await connect(site, clients)
    for _ in range(2):
        client[1].write(GET + b"\r\n")
        await asyncio.wait_for(client[0].readuntil(b"ok"), 5)
        await asyncio.sleep(0.5)
    assert not client[0].at_eof()


@pytest.mark.usefixtures("hurried")
async def test_a_body_that_does_not_come(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """408, as a problem; nothing is rotated."""
    monkeypatch.setattr("sidecar.web.api.bootstrap.BODY_PATIENCE", 0.2)
    answer = await site.raw(POST + b"Content-Length: 20\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer


@pytest.mark.usefixtures("hurried")
async def test_answers_that_nobody_reads(site: Site, clients: list[Client]) -> None:
    """A client that sends many requests and reads no answer is closed, and the app gets no more of its requests."""
    client = await connect(site, clients)
    client[1].transport.pause_reading()
    client[1].write((GET + b"\r\n") * 20_000)
    async with asyncio.timeout(10):
        while len(site.web.limit) != 0:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.02)
    assert site.web.runner.server is not None
    assert 0 < site.web.runner.server.requests_count < 20_000


async def test_many_requests_in_one_packet_delay_no_probe(site: Site, clients: list[Client]) -> None:
    """With thousands of requests from many clients, the first one of a new connection is answered before them, and
    there is room for it.
    """
    await connect(site, clients, 300)
    for _, writer in clients:
        writer.write((GET + b"\r\n") * 2000)
    times = []
    for _ in range(50):
        begun = time.monotonic()
        assert (await site.raw(GET + b"Connection: close\r\n\r\n")).endswith(b"ok")
        times.append(time.monotonic() - begun)
    assert sorted(times)[-2] < 0.1


# --- the crowd itself ----------------------------------------------------------------------------------------------


class Evictable:
    cuts = 0

    def cut(self) -> None:
        self.cuts += 1


async def test_a_guest_that_was_cut_before_its_turn_stays_away() -> None:
    """Its request gets no answer."""
    limit, client = ConnectionLimit(1), Evictable()
    limit.come(client)
    limit.come(Evictable())
    limit.works(client)
    limit.rests(client)
    assert (client.cuts, len(limit)) == (1, 1)


async def test_a_guest_that_left_while_it_was_answered_stays_away() -> None:
    """Otherwise it would be counted forever."""
    limit, client = ConnectionLimit(2), Evictable()
    limit.come(client)
    limit.works(client)
    limit.leave(client)
    limit.rests(client)
    assert len(limit) == 0


async def test_where_all_are_busy_the_newcomer_goes() -> None:
    """There is no room, and running requests are worth more."""
    limit, busy, late = ConnectionLimit(1), Evictable(), Evictable()
    limit.come(busy)
    limit.works(busy)
    limit.come(late)
    assert (busy.cuts, late.cuts) == (0, 1)
    limit.evict_one()
    assert busy.cuts == 0
    limit.evict_all()
    assert (busy.cuts, len(limit)) == (1, 0)


async def test_a_stream_that_was_read_late_goes_on(
    site: Site, clients: list[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that reads its answer isn't idle, however long the answer takes."""
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.1)
    monkeypatch.setattr(connection, "_CLOSING_SECONDS", 0.1)
    monkeypatch.setattr(stream, "PULSE", 0.2)
    reader, writer = await connect(site, clients)
    writer.write(b"GET /events HTTP/1.1\r\nHost: h\r\n\r\n")
    await reader.readuntil(b"event: hello")
    (client,) = site.web.limit._busy
    assert isinstance(client, connection.Connection)
    client.pause_writing()
    client.resume_writing()
    for _ in range(3):
        await asyncio.wait_for(reader.readuntil(b"event: pulse"), 5)
