"""Anything sent to the port gets the right status, no traceback and no version; the app continues to answer."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from sidecar.features.credentials.keeper import Credentials
from sidecar.web.metrics.requests import REQUESTS
from sidecar.web.middleware import log
from tests.support.fake_devpi import eventually
from tests.web.conftest import ADMIN, TOKEN, Site

CLOSE = b"Host: h\r\nConnection: close\r\n"


@pytest.fixture(autouse=True)
async def still_answers(site: Site) -> AsyncIterator[None]:
    """Check after each test that the app is unchanged."""
    yield
    assert (await site.get("/livez")).body == b"ok"


def read(answer: bytes) -> tuple[int, dict[str, object]]:
    """Return status and problem of a raw answer, which must disclose nothing."""
    head, _, body = answer.partition(b"\r\n\r\n")
    for hint in (b"Traceback", b"aiohttp", b"Python", b'File "'):
        assert hint not in answer
    assert b"Server: devpi-sidecar" in head
    assert b"application/problem+json" in head
    return int(head.split(b" ")[1]), json.loads(body)


@pytest.mark.parametrize(
    "sent",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /livez\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /bootstrap HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\nx",
        b"GET /livez HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: h\r\nX: a\r\n folded: b\r\n\r\n",
        b"GET /livez HTTP/1.1\nHost: h\n\n",
        b"GET /livez HTTP/1.1\r\nHost: h\nX: b\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n",
        b"GET /liv\x00ez HTTP/1.1\r\nHost: h\r\n\r\n",
    ],
)
async def test_garbage_is_a_bad_request(site: Site, sent: bytes) -> None:
    """400 as a problem, and the connection is closed."""
    status, problem = read(await site.raw(sent))
    assert status == 400
    assert problem["title"] == "Bad Request"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n" + CLOSE + b"\r\n",
        b"GET /livez HTTP/1.1\r\n" + CLOSE + b"X: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + CLOSE + b"X" * 20_000 + b": x\r\n\r\n",
    ],
)
async def test_oversized_headers(site: Site, sent: bytes) -> None:
    """431 for a line or a header that is too long."""
    status, problem = read(await site.raw(sent))
    assert (status, problem["status"]) == (431, 431)


async def test_too_many_headers(site: Site) -> None:
    """Many small headers are too many as well."""
    many = b"".join(b"X-%d: x\r\n" % number for number in range(1000))
    status, _ = read(await site.raw(b"GET /livez HTTP/1.1\r\n" + CLOSE + many + b"\r\n"))
    assert status in {400, 431}


@pytest.mark.parametrize("path", ["/bootstrap/root-password", "/bootstrap/rotate"])
async def test_oversized_bodies(site: Site, path: str) -> None:
    """413 for an admin, by Content-Length or, if chunked, by the received bytes; nothing is claimed."""
    site.generate_password()

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(1000)

    for data in (bytes(5000), chunks()):
        answer = await site.ask("POST", path, headers=ADMIN, data=data)
        assert (answer.status, answer.json["status"]) == (413, 413)
    assert site.credentials.root_password.state == "claimable"


async def test_a_stranger_s_body_is_not_read(site: Site) -> None:
    """401 is sent before the body arrives."""
    head = b"POST /bootstrap/root-password HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 1000000\r\n\r\n"
    status, _ = read(await site.raw(head + b"x"))
    assert status == 401


async def test_a_compressed_body_is_not_unpacked(site: Site) -> None:
    """A bomb isn't decompressed: it is invalid JSON."""
    headers = ADMIN | {"Content-Encoding": "gzip"}
    answer = await site.ask("POST", "/bootstrap/rotate", headers=headers, data=b"\x1f\x8b" + bytes(100))
    assert answer.status == 400


@pytest.mark.parametrize("method", ["TRACE", "DELETE", "PUT", "PATCH", "POST", "FOO"])
async def test_other_methods(site: Site, method: str) -> None:
    """405 with Allow, without an echo; an unknown method is 400 or 405."""
    answer = await site.raw(f"{method} /readyz HTTP/1.1\r\nX-Secret: s3cret\r\n".encode() + CLOSE + b"\r\n")
    status, _ = read(answer)
    assert status == 405 or (method == "FOO" and status == 400)
    assert b"s3cret" not in answer
    if status == 405:
        assert b"Allow: GET, HEAD, OPTIONS" in answer


@pytest.mark.parametrize("path", [b"/livez", b"/nope"])
@pytest.mark.parametrize("expectation", [b"s3cret", b"s3cret \x80\xff", b"100-continue, s3cret"])
async def test_an_odd_expectation(site: Site, path: bytes, expectation: bytes) -> None:
    """417 as a problem, without an echo."""
    answer = await site.raw(b"GET " + path + b" HTTP/1.1\r\nExpect: " + expectation + b"\r\n" + CLOSE + b"\r\n")
    status, problem = read(answer)
    assert (status, problem["title"]) == (417, "Expectation Failed")
    assert b"s3cret" not in answer


async def test_connect(site: Site) -> None:
    """The sidecar is no proxy."""
    answer = await site.raw(b"CONNECT example.org:443 HTTP/1.1\r\n" + CLOSE + b"\r\n")
    assert answer.split(b" ")[1] in {b"400", b"404", b"405"}


@pytest.mark.parametrize(("path", "allow"), [("/readyz", "GET, HEAD, OPTIONS"), ("/bootstrap/rotate", "OPTIONS, POST")])
async def test_options(site: Site, path: str, allow: str) -> None:
    """204 with the allowed methods."""
    answer = await site.ask("OPTIONS", path)
    assert (answer.status, answer.headers["Allow"], answer.body) == (204, allow, b"")


@pytest.mark.parametrize(
    "target",
    [
        b"/nope",
        b"/livez/",
        b"/readyz/",
        b"//livez",
        b"/readyz/../../etc/passwd",
        b"/readyz/..%2f..%2fetc%2fpasswd",
        b"/%2e%2e/%2e%2e/etc/passwd",
        b"/readyz/%00",
        b"/readyz/%ff",
        b"/readyz/<script>",
        b"/bootstrap/",
        b"/bootstrap/root-password/x",
        b"/static/../app.py",
    ],
)
async def test_unknown_paths(site: Site, target: bytes) -> None:
    """404 as a problem, never a redirect."""
    status, problem = read(await site.raw(b"GET " + target + b" HTTP/1.1\r\n" + CLOSE + b"\r\n"))
    assert (status, problem["title"]) == (404, "Not Found")


async def test_queries_of_all_kinds(site: Site) -> None:
    """Unusual queries are no error."""
    for query in ("?", "?&&&", "?exclude", "?exclude=%ff%00", "?verbose=0", "?" + "exclude=x&" * 300):
        assert (await site.get("/readyz" + query)).status == 503


async def test_an_internal_error_tells_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """500 as a problem; the cause is in the log."""
    told: list[str] = []
    monkeypatch.setattr(log, "exception", lambda message, *_: told.append(message))
    monkeypatch.setattr(Credentials, "root_password", property(lambda self: 1 / 0))
    answer = await site.raw(f"GET /bootstrap HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n".encode() + CLOSE + b"\r\n")
    status, _ = read(answer)
    assert status == 500
    assert b"division" not in answer
    assert len(told) == 1


async def test_pipelined_requests(site: Site) -> None:
    """Each of several requests in one packet is answered, in order."""
    answer = await site.raw(
        b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n" * 20 + b"GET /nope HTTP/1.1\r\n" + CLOSE + b"\r\n"
    )
    assert answer.count(b"HTTP/1.1 200 OK") == 20
    assert answer.count(b"HTTP/1.1 404 ") == 1


HALF_A_BODY = (b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n50\r\n{")


@pytest.mark.parametrize("end", ["reset", "closed"])
@pytest.mark.parametrize("half", HALF_A_BODY, ids=["length", "chunked"])
@pytest.mark.parametrize("path", ["/bootstrap/root-password", "/bootstrap/rotate"])
async def test_an_admin_that_goes_in_its_body(
    site: Site, caplog: pytest.LogCaptureFixture, path: str, half: bytes, end: str
) -> None:
    """A connection that ends in the middle of a body: no 500, no log line, and nothing is claimed."""
    site.generate_password()
    counted = site.web.runner.app[REQUESTS].answered
    loop = asyncio.get_running_loop()
    with socket.create_connection(("127.0.0.1", site.web.port)) as client:
        client.setblocking(False)
        head = f"POST {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
        await loop.sock_sendall(client, head + half)
        await eventually(lambda: len(site.web.limit._busy) == 1)
        if end == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        else:
            client.shutdown(socket.SHUT_WR)
        await eventually(lambda: counted.total() == 1)
    assert {(path, "POST", 400)} == set(counted)
    assert [] == [record.getMessage() for record in caplog.records]
    assert site.credentials.root_password.state == "claimable"
