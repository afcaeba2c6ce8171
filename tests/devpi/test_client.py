"""`sidecar.devpi.client` against real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from sidecar.devpi.client import API_LIMIT, STATUS_LIMIT, BadAnswer, DevpiClient, DevpiError, Refused, TimedOut
from sidecar.devpi.server_status import REPLICAS_LIMIT, Metric, Replica, ServerStatus
from tests.support.fake_devpi import UUID, FakeDevpi, status_of


@pytest.fixture
async def devpi() -> AsyncIterator[FakeDevpi]:
    fake = FakeDevpi()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def client(devpi: FakeDevpi) -> AsyncIterator[DevpiClient]:
    client = DevpiClient(f"http://127.0.0.1:{devpi.port}", 30)
    yield client
    await client.close()


async def test_api_tells_uuid_and_seconds(client: DevpiClient) -> None:
    """A valid answer has the server's uuid and its duration."""
    began = time.monotonic()
    answer = await client.api()
    assert answer.uuid == UUID
    assert 0 < answer.seconds <= time.monotonic() - began


async def test_asks_for_json_without_cookies_over_new_connections(devpi: FakeDevpi, client: DevpiClient) -> None:
    """devpi-web answers HTML without Accept; a kept connection would not show what a new client sees."""
    await client.api()
    await client.status()
    assert ["application/json"] * 2 == [headers["Accept"] for headers in devpi.headers]
    assert ["close"] * 2 == [headers.get("Connection") for headers in devpi.headers]


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "localhost"])
async def test_dials_wildcards_as_loopback(devpi: FakeDevpi, host: str) -> None:
    """devpi listening on 0.0.0.0 is reached at 127.0.0.1."""
    client = DevpiClient(f"http://{host}:{devpi.port}", 2)
    assert (await client.api()).uuid == UUID
    await client.close()


async def test_dials_ipv6_wildcard_as_loopback() -> None:
    """devpi listening on :: is reached at ::1."""
    runner = web.AppRunner(web.Application(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "::1", 0).start()
    except OSError as error:
        await runner.cleanup()
        pytest.skip(f"no IPv6 here: {error}")
    client = DevpiClient(f"http://[::]:{runner.addresses[0][1]}", 2)
    with pytest.raises(BadAnswer) as caught:  # this one has no routes: it was reached
        await client.api()
    assert str(caught.value) == "answered 404"
    await client.close()
    await runner.cleanup()


async def test_unix_socket(tmp_path: Path) -> None:
    """A server on a Unix socket is reached there; a missing socket is refused, without its path."""
    fake = FakeDevpi()
    client = DevpiClient(await fake.start(tmp_path / "devpi.sock"), 2)
    assert (await client.api()).uuid == UUID
    await fake.stop()
    (tmp_path / "devpi.sock").unlink(missing_ok=True)
    with pytest.raises(Refused, match=r"^no such file or directory$"):
        await client.api()
    await client.close()


@pytest.mark.parametrize("address", ["https://h:1", "h:1", "ftp://h", "http://"])
def test_other_addresses_are_an_error(address: str) -> None:
    """devpi-server speaks http, on TCP or a Unix socket."""
    with pytest.raises(ValueError, match="neither"):
        DevpiClient(address, 1)


async def test_refused(devpi: FakeDevpi, client: DevpiClient) -> None:
    """Without a listener it is refused, with the errno's text."""
    await devpi.stop()
    with pytest.raises(Refused, match=r"^connection refused$"):
        await client.api()


async def test_closed_without_an_answer(devpi: FakeDevpi, client: DevpiClient) -> None:
    """A connection that ends without an answer counts as none."""
    devpi.cut = True
    with pytest.raises(Refused):
        await client.api()


async def test_times_out(devpi: FakeDevpi) -> None:
    """No answer in time differs from no connection."""
    devpi.delay = 5
    client = DevpiClient(f"http://127.0.0.1:{devpi.port}", 0.3)
    with pytest.raises(TimedOut):
        await client.api()
    await client.close()


@pytest.mark.parametrize(
    ("answer", "busy"),
    [
        (lambda: web.Response(status=500), False),
        (lambda: web.Response(status=503), False),
        (lambda: web.Response(status=503, headers={"Retry-After": "1"}), True),
        (lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), False),
        (lambda: web.Response(text="<html>"), False),
        (lambda: web.Response(text="[1]"), False),
        (lambda: web.Response(text='{"result": 3}'), False),
        (lambda: web.Response(text="[" * 50_000), False),
        (lambda: web.Response(text=json.dumps({"result": {"x": "x" * API_LIMIT}})), False),
        (lambda: web.Response(body=b"\xff\xfe"), False),
        (lambda: web.Response(body=b""), False),
    ],
)
async def test_bad_answers(devpi: FakeDevpi, client: DevpiClient, answer: object, busy: bool) -> None:
    """Everything except a 200 with a JSON result of limited size is a bad answer; redirects aren't followed."""
    devpi.api = answer  # type: ignore[assignment]
    with pytest.raises(BadAnswer) as caught:
        await client.api()
    assert caught.value.busy is busy


@pytest.mark.parametrize(
    "reply", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]
)
async def test_not_http(reply: bytes) -> None:
    """Another kind of server on the port is a DevpiError too, never another exception."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = DevpiClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", 2)
    with pytest.raises(DevpiError):
        await client.api()
    await client.close()
    server.close()
    await server.wait_closed()


async def test_status(devpi: FakeDevpi, client: DevpiClient) -> None:
    """The fields of `+status`, as devpi 6.20 sends them."""
    devpi.status = status_of(
        role="REPLICA", primary_serial=9, update_from_primary_at=5.5, replication_errors={"a": 1}, polling_replicas=None
    ) | {"polling_replicas": {"u1": {}, "u2": {}}}
    status = await client.status()
    assert (status.version, status.role, status.serial, status.primary_serial) == ("6.20.3", "REPLICA", 7, 9)
    assert (status.update_from_primary_at, status.replication_errors, status.polling_replicas) == (5.5, 1, 2)
    assert status.metrics == (Metric("devpi_server_storage_cache_hits", "counter", 1.0),)


async def test_malformed_status_fields_are_none(devpi: FakeDevpi, client: DevpiClient) -> None:
    """Absent and invalid fields are None, invalid metrics are left out; nothing raises."""
    devpi.status = {
        "versioninfo": ["6"],
        "role": 1,
        "serial": "7",
        "event-serial": True,
        "last-commit-timestamp": float("nan"),
        "event-serial-timestamp": 10**400,
        "replication-errors": 0,
        "polling_replicas": "x",
        "metrics": [["a", "counter", None], ["b"], 3, ["c", "gauge", float("inf")], ["d", "gauge", 2.5]],
    }
    assert await client.status() == ServerStatus(metrics=(Metric("d", "gauge", 2.5),))


async def test_replicas(devpi: FakeDevpi, client: DevpiClient) -> None:
    """Each with its position; invalid ones, and those beyond the limit, are only counted."""
    told = {"remote-ip": "10.0.3.7", "serial": 6, "in-request": True, "last-request": 1.5, "outside-url": None}
    devpi.status = status_of() | {"polling_replicas": {"a": told, "b": {"serial": "6", "remote-ip": 1}, "c": "odd"}}
    status = await client.status()
    assert (Replica("10.0.3.7", 6, 1.5, None), Replica(None, None, None, None)) == status.replicas
    assert 3 == status.polling_replicas
    devpi.status = status_of() | {"polling_replicas": {str(n): told for n in range(REPLICAS_LIMIT + 1)}}
    status = await client.status()
    assert (REPLICAS_LIMIT, REPLICAS_LIMIT + 1) == (len(status.replicas), status.polling_replicas)


async def test_status_of_a_large_server_is_read_up_to_a_limit(devpi: FakeDevpi, client: DevpiClient) -> None:
    """+status may be larger than +api, but has a limit."""
    devpi.status = {"serial": 1, "x": "x" * (2 * API_LIMIT)}
    assert (await client.status()).serial == 1
    devpi.status = {"serial": 1, "x": "x" * STATUS_LIMIT}
    with pytest.raises(BadAnswer):
        await client.status()


def test_what_is_put_off_is_counted() -> None:
    """The backlog is the unprocessed events and devpi-web's queue; None if unknown."""
    queue = Metric("devpi_web_whoosh_index_queue_size", "gauge", 463.0)
    assert (ServerStatus(serial=12, event_serial=2).events_behind, ServerStatus(serial=1).events_behind) == (10, None)
    assert (ServerStatus(metrics=(queue,)).search_index_queue, ServerStatus().search_index_queue) == (463, None)
