"""The client of one mirror, against real servers on loopback."""

from __future__ import annotations

import base64
import contextlib
import gzip
import os
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from devpi_server.httpclient import FatalResponse
from devpi_server.mirror import MirrorHTTPClient

from sidecar.worker.upstream import streams
from sidecar.worker.upstream.causes import UpstreamFault
from sidecar.worker.upstream.upstream_client import FailedResponse, UpstreamClient
from tests.support.certificates import Authority
from tests.worker.upstream.server import PUBLIC, Handler, client_of, only_loopback, raw_server, run, serving

CREDENTIALS = "Basic " + base64.b64encode(b"me@corp:p/w d").decode()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has set."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def page(client: UpstreamClient, url: str, **options: Any) -> tuple[Any, str | None]:
    """Get one page, on an event loop of its own."""
    return run(client, client.async_get(url, allow_redirects=True, **options))


def file(client: UpstreamClient, url: str) -> tuple[Any, bytes]:
    """Get a file as devpi does: head, and body if it is 200."""
    with ExitStack() as cstack:
        response = client.stream(cstack, "GET", url, allow_redirects=True)
        return response, b"".join(response.iter_raw(10240)) if response.status_code == 200 else b""  # type: ignore[union-attr]


def hello(handler: Handler) -> None:
    handler.send(200, b"hello", Content_Type="text/html")


def test_a_page_and_a_file() -> None:
    """With the attributes that devpi reads; a page is asked for with gzip, a file as it is."""
    with serving(hello) as server, client_of(f"{server.url}/simple/") as client:
        response, text = page(client, f"{server.url}/simple/x/", extra_headers={"Accept": "text/html"})
        assert (response.status_code, text) == (200, "hello")
        assert (str(response.url), response.reason_phrase) == (f"{server.url}/simple/x/", "OK")
        assert (response.cause, response.history) == (None, [])
        response, body = file(client, f"{server.url}/x.whl")
        assert (response.status_code, body) == (200, b"hello")
        assert response.headers["content-length"] == "5"
        got = client.get(f"{server.url}/simple/x/", allow_redirects=True)
        assert isinstance(got, httpx.Response)
        assert got.text == "hello"
        assert [each[2]["accept-encoding"] for each in server.requests] == ["gzip", "identity", "gzip"]
        assert server.requests[0][2]["accept"] == "text/html"
        assert server.requests[0][2]["user-agent"].startswith("devpi-server/")
        found = client.as_json()
        assert found["index"] == "root/pypi"
        assert found["state"] == "up"
        assert found["answers"] == {"200": 3}
        assert found["bytes"] == 15


def test_devpis_own_wrapper_uses_it() -> None:
    """`MirrorHTTPClient`, with candidates of credentials after a 401."""

    def answer(handler: Handler) -> None:
        if handler.headers["Authorization"] == "Basic new":
            return hello(handler)
        return handler.send(401)

    headers = {"Authorization": "Basic old"}

    def update(challenge: str) -> bool:
        headers["Authorization"] = "Basic new"
        return True

    with serving(answer) as server, client_of(server.url) as client:
        wrapper = MirrorHTTPClient(client, lambda given: {**(given or {}), **headers}, update)
        response, text = run(client, wrapper.async_get(server.url, allow_redirects=True))
        assert (response.status_code, text) == (200, "hello")
        headers["Authorization"] = "Basic old"
        with ExitStack() as cstack:
            streamed = wrapper.stream(cstack, "GET", server.url, allow_redirects=True)
            assert b"".join(streamed.iter_raw()) == b"hello"


def test_connections_are_kept() -> None:
    """One for many pages, also for those that do not exist, and one for many files."""

    def answer(handler: Handler) -> None:
        handler.send(404 if "missing" in handler.path else 200, b"x" * 1000)

    async def many(client: UpstreamClient, url: str) -> None:
        for name in ("a", "missing", "b", "missing", "c"):
            await client.async_get(f"{url}/{name}/", allow_redirects=True)

    with serving(answer) as server, client_of(server.url) as client:
        run(client, many(client, server.url))
        assert server.connections == 1
        for name in "abc":
            file(client, f"{server.url}/{name}")
        assert server.connections == 2


def test_an_idle_connection_that_the_server_closes_costs_no_failure() -> None:
    """At the instant of its reuse: the request is sent again, once."""
    closed = threading.Event()

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        if not closed.is_set():
            connection.recv(65536)  # the next request on this connection is not answered
            closed.set()

    with raw_server(talk) as port, client_of(f"http://127.0.0.1:{port}") as client:
        for _ in range(2):
            _, body = file(client, f"http://127.0.0.1:{port}/x")
            assert body == b"ok"
        assert closed.is_set()
        assert client.as_json()["answers"] == {"200": 2}


class Names:
    """A resolver whose answers the test sets, one after the other."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.mark.parametrize("kind", ["page", "file"])
def test_the_address_that_was_checked_is_connected_to(kind: str) -> None:
    """Each connection resolves once: a name whose answer changes after the check changes nothing."""
    names = Names(["127.0.0.1"], ["169.254.169.254"])
    with serving(hello) as server, client_of(f"http://index.test:{server.port}", resolver=names) as client:
        url = f"http://index.test:{server.port}/x"
        status = page(client, url)[0].status_code if kind == "page" else file(client, url)[0].status_code
        assert status == 200
        assert names.asked == ["index.test"]
        assert server.requests[0][2]["host"] == f"index.test:{server.port}"


@pytest.mark.parametrize("kind", ["page", "file"])
@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("http://inside.test:{port}/", "inside.test (127.0.0.1) is a loopback address"),
        ("http://169.254.169.254/latest/", "169.254.169.254 is a metadata service"),
        ("http://[::ffff:169.254.169.254]/", "is a metadata service"),
        ("http://0.0.0.0:{port}/", "0.0.0.0 is not a host's address"),
        ("file:///etc/passwd", "the scheme file"),
        ("gopher://index.test/", "the scheme gopher"),
    ],
)
def test_a_redirect_into_the_network_is_not_followed(kind: str, location: str, words: str) -> None:
    """The index itself is reached by an allowed name here; what it redirects to is not."""

    def answer(handler: Handler) -> None:
        handler.send(302, Location=location.format(port=handler.server.port))

    def resolver(host: str) -> Sequence[str]:
        return {"index.test": [PUBLIC], "mirror.test": ["127.0.0.1"], "inside.test": ["127.0.0.1"]}[host]

    with (
        serving(answer) as server,
        client_of("http://index.test/", resolver=resolver, allow=["mirror.test"]) as client,
    ):
        url = f"http://mirror.test:{server.port}/x/"
        response = page(client, url)[0] if kind == "page" else file(client, url)[0]
        assert isinstance(response, FatalResponse)
        assert response.cause.kind == "forbidden"  # type: ignore[attr-defined]
        assert words in response.reason_phrase
        assert len(server.requests) == 1
        assert client.breaker.allows()


def test_at_most_five_redirects() -> None:
    """Each is followed by hand; the answer has its final URL and its history."""

    def answer(handler: Handler) -> None:
        left = int(handler.path.strip("/"))
        return handler.send(302, Location=f"/{left - 1}") if left else hello(handler)

    with serving(answer) as server, client_of(server.url) as client:
        response, text = page(client, f"{server.url}/5")
        assert (text, str(response.url), len(response.history)) == ("hello", f"{server.url}/0", 5)
        response, text = page(client, f"{server.url}/6")
        assert (response.status_code, text, response.cause.kind) == (-1, None, "redirects")
        got = run(client, client.async_get(f"{server.url}/6", allow_redirects=False))[0]
        assert got.status_code == 302


@pytest.mark.parametrize("settings", [{}, {"user": "me@corp", "password": "p/w d"}])
def test_credentials_go_to_the_own_origin_only(settings: dict[str, str]) -> None:
    """Decoded, from the first request on; not to files on another host, not after a redirect elsewhere."""
    with serving(hello) as other:

        def answer(handler: Handler) -> None:
            if handler.path == "/away":
                return handler.send(302, Location=f"{other.url}/landed")
            return hello(handler)

        userinfo = "" if settings else "me%40corp:p%2Fw%20d@"
        with (
            serving(answer) as server,
            client_of(f"http://{userinfo}127.0.0.1:{server.port}/simple/", url=server.url, **settings) as client,
        ):
            page(client, f"{server.url}/simple/x/")
            page(client, f"{server.url}/away")
            given = {"Authorization": "Basic plugin"}
            page(client, f"{server.url}/x", extra_headers=given)
            page(client, f"{other.url}/file", extra_headers=given)
            file(client, f"{other.url}/file")
            sent = [each[2].get("authorization") for each in server.requests]
            assert sent == [CREDENTIALS, CREDENTIALS, "Basic plugin"]
            assert [(each[1], each[2].get("authorization")) for each in other.requests] == [
                ("/landed", None),
                ("/file", None),
                ("/file", None),
            ]
            assert "p%2Fw" not in str(client.as_json())


def test_what_devpi_makes_of_a_password_is_corrected() -> None:
    """It does not decode the URL's; credentials of DEVPI_MIRROR_USER are those of root/pypi alone."""
    undecoded = {"Authorization": "Basic " + base64.b64encode(b"me%40corp:p%2Fw%20d").decode()}
    with serving(hello) as server:
        url = f"http://me%40corp:p%2Fw%20d@127.0.0.1:{server.port}/"
        with client_of(url, index="team/mirror", user="other", password="other") as client:
            page(client, server.url, extra_headers=undecoded)
        assert server.requests[0][2]["authorization"] == CREDENTIALS


def bomb() -> bytes:
    """200 kB that become 200 MiB; not made of as many bytes, because the test measures this process."""
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(2**20)
    return b"".join(packer.compress(zeros) for _ in range(200)) + packer.flush()


def test_a_gzip_bomb_does_not_grow_in_memory() -> None:
    """The limit is that of the decompressed page."""
    body = bomb()

    def answer(handler: Handler) -> None:
        handler.send(200, body, Content_Encoding="gzip")

    with serving(answer) as server, client_of(server.url, max_page_bytes=2**20) as client:
        before = _peak()
        response, text = page(client, server.url)
        assert text is None
        assert response.cause.kind == "too-large"
        assert 190_000 < len(body) < 2**20
        assert "DEVPI_MIRROR_MAX_PAGE_SIZE" in response.cause.hint
        got = client.get(server.url, allow_redirects=True)
        assert isinstance(got, FailedResponse)
        assert got.cause.kind == "too-large"
        assert _peak() - before < 50 * 2**20
        assert client.breaker.allows()


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def test_a_compressed_page() -> None:
    """One gzip member or two, and text by its charset; a cut or broken one is no page."""
    text = "héllo " * 1000
    bodies = {
        "/one": gzip.compress(text.encode()),
        "/two": gzip.compress(text[:3000].encode()) + gzip.compress(text[3000:].encode()),
        "/latin": gzip.compress(text.encode("latin-1")),
        "/cut": gzip.compress(os.urandom(5000))[:-100],
        "/broken": b"\x1f\x8b" + bytes(500),
        "/plain": b"not gzip at all",
    }

    def answer(handler: Handler) -> None:
        charset = "latin-1" if handler.path == "/latin" else "utf-8"
        handler.send(200, bodies[handler.path], Content_Encoding="gzip", Content_Type=f"text/html; charset={charset}")

    with serving(answer) as server, client_of(server.url) as client:
        for path in ("/one", "/two", "/latin"):
            assert page(client, server.url + path)[1] == text
        assert page(client, f"{server.url}/cut")[0].cause.kind == "cut"
        assert page(client, f"{server.url}/broken")[0].cause.kind == "unreadable"
        assert page(client, f"{server.url}/plain")[0].cause.kind == "unreadable"


def test_an_encoding_that_was_not_asked_for_is_no_page() -> None:
    """Brotli, for instance."""
    with (
        serving(lambda handler: handler.send(200, b"x", Content_Encoding="br")) as server,
        client_of(server.url) as client,
    ):
        assert page(client, server.url)[0].cause.kind == "unreadable"


def endless(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
    while True:
        connection.sendall(bytes(65536))


def test_an_endless_page_ends_at_the_limit() -> None:
    """Without a length in its head."""
    with raw_server(endless) as port, client_of(f"http://127.0.0.1:{port}", max_page_bytes=2**20) as client:
        assert page(client, f"http://127.0.0.1:{port}/x/")[0].cause.kind == "too-large"


def test_a_page_that_is_announced_as_too_large_is_not_read() -> None:
    """By its Content-Length."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
        connection.recv(1)

    with raw_server(talk) as port, client_of(f"http://127.0.0.1:{port}") as client:
        response = page(client, f"http://127.0.0.1:{port}/x/")[0]
        assert response.cause.kind == "too-large"


def drip(head: bytes) -> Callable[[socket.socket], None]:
    """Send a byte now and then, so that no read ever takes long."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head)
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)

    return talk


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "], ids=["body", "head"])
def test_a_page_that_drips_ends_at_the_total_time(head: bytes) -> None:
    """In its head, too; the same for a list, whose body raises."""
    with raw_server(drip(head)) as port, client_of(f"http://127.0.0.1:{port}", page_seconds=0.4) as client:
        url = f"http://127.0.0.1:{port}/x/"
        response = page(client, url)[0]
        assert response.cause.kind == "timeout"
        assert "DEVPI_MIRROR_PAGE_TIMEOUT" in response.cause.hint
        got = client.get(url, allow_redirects=True)
        assert isinstance(got, FailedResponse)
        assert got.cause.kind == "timeout"
        with client.fetch(url, seconds=0.4) as listed:
            if isinstance(listed, FailedResponse):
                cause = listed.cause
            else:
                with pytest.raises(UpstreamFault) as caught:
                    list(listed.iter_raw())  # type: ignore[union-attr]
                cause = caught.value.cause
            assert cause.kind == "timeout"
            assert "DEVPI_MIRROR_LIST_TIMEOUT" in cause.hint


def test_a_slow_file_is_not_ended() -> None:
    """It may be large, and the line slow: it may take longer than a page."""
    with (
        raw_server(drip(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n")) as port,
        client_of(f"http://127.0.0.1:{port}", page_seconds=0.4) as client,
    ):
        assert file(client, f"http://127.0.0.1:{port}/x")[1] == b"x" * 40


def test_a_file_that_drips_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hold one of devpi's threads for ever. What the client takes for a piece does not count."""
    monkeypatch.setattr(streams, "SLOW_SECONDS", 0.3)
    monkeypatch.setattr(streams, "SLOW_BYTES", 100)
    with (
        raw_server(drip(b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n")) as port,
        client_of(f"http://127.0.0.1:{port}") as client,
    ):
        with pytest.raises(UpstreamFault, match=r"sent only \d+ bytes in 0\.\d s") as caught:
            file(client, f"http://127.0.0.1:{port}/x")
        assert caught.value.cause.kind == "timeout"
    with (
        serving(lambda handler: handler.send(200, b"x" * 40_000)) as server,
        client_of(server.url) as client,
        ExitStack() as cstack,
    ):
        response = client.stream(cstack, "GET", f"{server.url}/x", allow_redirects=True)
        for piece in response.iter_raw(10_000):  # type: ignore[union-attr]
            assert len(piece) == 10_000
            time.sleep(0.2)


def test_a_file_that_is_cut_raises_and_counts() -> None:
    """Its bytes so far count too."""

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nten bytes!")

    with raw_server(talk) as port, client_of(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(UpstreamFault) as caught:
            file(client, f"http://127.0.0.1:{port}/x")
        assert caught.value.cause.kind == "cut"
        found = client.as_json()
        assert found["answers"] == {"200": 1, "cut": 1}
        assert found["bytes"] == 10
        assert found["state"] == "failing"
        assert page(client, f"http://127.0.0.1:{port}/x/")[0].cause.kind == "cut"


def test_a_list_is_streamed_as_it_comes() -> None:
    """Compressed, if the caller wants it so; conditional requests pass."""
    body = gzip.compress(b"names")

    def answer(handler: Handler) -> None:
        if handler.headers["If-None-Match"] == '"1"':
            return handler.send(304)
        return handler.send(200, body, Content_Encoding="gzip", ETag='"1"')

    with serving(answer) as server, client_of(server.url) as client:
        with client.fetch(server.url, headers={"Accept-Encoding": "gzip"}, seconds=20) as response:
            assert b"".join(response.iter_raw()) == body  # type: ignore[union-attr]
        with client.fetch(server.url, headers={"If-None-Match": '"1"'}, seconds=20) as response:
            assert response.status_code == 304
        assert server.requests[0][2]["accept-encoding"] == "gzip"
        assert server.requests[1][2]["accept-encoding"] == "identity"


def cause_of(client: UpstreamClient, url: str) -> Any:
    """The cause of a page that fails; the same for a file."""
    first, second = page(client, url)[0].cause, file(client, url)[0].cause
    assert first == second
    assert first == client.last_cause
    return first


def test_a_refused_connection_and_an_unknown_name() -> None:
    """By their own words."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with client_of(f"http://127.0.0.1:{port}/") as client:
        found = cause_of(client, f"http://127.0.0.1:{port}/x/")
        assert (found.kind, found.reason) == ("refused", f"127.0.0.1:{port} refused the connection")

    def unknown(host: str) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with client_of("http://index.test/", resolver=unknown) as client:
        found = cause_of(client, "http://index.test/x/?token=secret")
        assert found.kind == "name"
        assert "index.test" in found.reason
        assert "secret" not in str(client.as_json())


def test_a_name_that_takes_long_to_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends at the timeout of a connection, while the resolver goes on."""
    ended = threading.Event()

    def slow(host: str) -> Sequence[str]:
        ended.wait(60)
        return ["127.0.0.1"]

    monkeypatch.setattr("sidecar.worker.upstream.sending.CONNECT_SECONDS", 0.2)
    with client_of("http://index.test/", resolver=slow) as client:
        assert cause_of(client, "http://index.test/x/").reason == "index.test: the name was not resolved in time"
    ended.set()


def test_an_upstream_that_does_not_answer() -> None:
    """devpi's timeout is that of a read."""
    with (
        raw_server(lambda connection: connection.recv(65536) and connection.recv(1)) as port,
        client_of(f"http://127.0.0.1:{port}/", timeout=0.2) as client,
    ):
        assert cause_of(client, f"http://127.0.0.1:{port}/x/").kind == "timeout"


@pytest.mark.parametrize(
    ("status", "headers", "kind", "hint"),
    [
        (401, {}, "denied", "DEVPI_MIRROR_USER"),
        (403, {}, "denied", "DEVPI_MIRROR_USER"),
        (429, {"Retry-After": "7"}, "limited", "again"),
        (500, {}, "status", "check the upstream"),
        (503, {"Retry-After": "7"}, "status", "check the upstream"),
        (400, {}, "status", "package index"),
        (407, {}, "proxy", "HTTPS_PROXY"),
    ],
)
def test_answers_that_are_failures(status: int, headers: dict[str, str], kind: str, hint: str) -> None:
    """They stay answers, with a cause."""
    with serving(lambda handler: handler.send(status, **headers)) as server, client_of(server.url) as client:
        response, text = page(client, f"{server.url}/x/")
        assert (response.status_code, text) == (status, None)
        assert response.cause.kind == kind
        assert str(status) in response.cause.reason
        assert hint in response.cause.hint
        assert response.retry_after == (7 if headers else None)


@pytest.mark.parametrize("status", [404, 410, 304])
def test_answers_that_are_none(status: int) -> None:
    """The upstream works, and says that it has nothing, or nothing new."""
    with serving(lambda handler: handler.send(status)) as server, client_of(server.url) as client:
        for _ in range(4):
            assert page(client, f"{server.url}/x/")[0].cause is None
        assert client.breaker.allows()


def test_tls_by_name_and_a_ca_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connected by address, verified by name; without the CA the hint names the setting."""
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert, pair.key)
    with serving(hello, context) as server:
        url = f"https://localhost:{server.port}/x/"
        with client_of(url, resolver=only_loopback, ca=str(authority.file)) as client:
            assert page(client, url)[1] == "hello"
            assert file(client, url)[1] == b"hello"
        with client_of(url, resolver=only_loopback) as client:
            found = cause_of(client, url)
            assert found.kind == "trust"
            assert "DEVPI_MIRROR_CA" in found.hint
        url = f"https://index.test:{server.port}/x/"
        with client_of(url, resolver=only_loopback, ca=str(authority.file)) as client:
            found = cause_of(client, url)
            assert found.kind == "trust"
            assert "mirror_url" in found.hint
        with client_of(f"http://127.0.0.1:{server.port}/") as client:
            assert page(client, f"http://127.0.0.1:{server.port}/x/")[0].cause.kind in ("tls", "cut")


def test_tls_to_a_port_without() -> None:
    """The hint names http://."""
    with serving(hello) as server, client_of(f"https://127.0.0.1:{server.port}/") as client:
        found = cause_of(client, f"https://127.0.0.1:{server.port}/x/")
        assert found.kind == "tls"
        assert "http://" in found.hint


def test_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the whole URL and resolves the name; literal addresses are checked nevertheless."""
    with serving(hello) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://user:pa%40ss@127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "direct.test")

        def resolver(host: str) -> Sequence[str]:
            return [PUBLIC] if host == "index.test" else ["127.0.0.1"]

        with client_of("http://index.test/simple/", resolver=resolver) as client:
            assert page(client, "http://index.test/simple/x/")[1] == "hello"
            assert file(client, "http://files.test/x")[1] == b"hello"
            assert [each[1] for each in proxy.requests] == ["http://index.test/simple/x/", "http://files.test/x"]
            expected = "Basic " + base64.b64encode(b"user:pa@ss").decode()
            assert proxy.requests[0][2]["proxy-authorization"] == expected
            assert page(client, "http://169.254.169.254/")[0].cause.kind == "forbidden"
            assert page(client, "http://localhost/")[0].cause.kind == "forbidden"
            assert page(client, "http://direct.test/")[0].cause.kind == "forbidden"
            assert len(proxy.requests) == 2


def test_faults_of_a_proxy_name_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials, a refused connection, a proxy that denies, and what is no proxy."""

    def answer(handler: Handler) -> None:
        handler.send(407 if "needs-login" in handler.path else 403)

    with serving(answer) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        with client_of("https://needs-login.test/") as client:
            found = cause_of(client, "https://needs-login.test/x/")
            assert (found.kind, "407" in found.reason, "HTTPS_PROXY" in found.hint) == ("proxy", True, True)
        with client_of("https://index.test/") as client:
            found = cause_of(client, "https://index.test/x/")
            assert (found.kind, "403" in found.reason, "HTTPS_PROXY" in found.hint) == ("proxy", True, True)
    with client_of("https://index.test/") as client:
        found = cause_of(client, "https://index.test/x/")
        assert (found.kind, found.reason) == ("proxy", "the proxy refused the connection")
        assert "HTTPS_PROXY" in found.hint
    monkeypatch.setenv("HTTPS_PROXY", "socks5://user:secret@127.0.0.1:1")
    with client_of("https://index.test/") as client:
        found = cause_of(client, "https://index.test/x/")
        assert found.kind == "proxy"
        assert "secret" not in str(found)


def test_a_stuck_upstream_is_left_alone_and_comes_back() -> None:
    """After three failures answers are immediate; a thread probes until it is up, then ends."""
    stuck = threading.Event()

    def answer(handler: Handler) -> None:
        handler.send(503 if stuck.is_set() else 200, b"page")

    stuck.set()
    with serving(answer) as server, client_of(f"{server.url}/simple/") as client:
        for _ in range(3):
            assert page(client, f"{server.url}/simple/x/")[0].status_code == 503
        response, text = page(client, f"{server.url}/simple/x/")
        assert (response.status_code, text) == (-1, None)
        assert response.cause.kind == "status"
        assert response.retry_after >= 1
        assert file(client, f"{server.url}/x")[0].status_code == -1
        with client.fetch(f"{server.url}/simple/", seconds=20) as listed:
            assert listed.status_code == -1
        found = client.as_json()
        assert found["state"] == "down"
        assert found["next_try"] is not None
        stuck.clear()
        _until(client.breaker.allows)
        assert page(client, f"{server.url}/simple/x/")[1] == "page"
        assert client.as_json()["state"] == "up"
        _until(lambda: not any(each.name == "upstream-prober" for each in threading.enumerate()))
        probes = [each[:2] for each in server.requests if each[0] == "HEAD"]
        assert set(probes) == {("HEAD", "/simple/")}


def _until(condition: Callable[[], bool]) -> None:
    """Wait, at most half a minute."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_host_of_files_that_fails_does_not_close_the_index() -> None:
    """Each origin has a breaker of its own; a denied file is no fault of the host."""
    with serving(lambda handler: handler.send(500)) as files, serving(hello) as server, client_of(server.url) as client:
        for _ in range(3):
            assert file(client, f"{files.url}/x")[0].status_code == 500
        assert file(client, f"{files.url}/x")[0].status_code == -1
        assert page(client, server.url)[1] == "hello"
    with serving(lambda handler: handler.send(403)) as files, serving(hello) as server, client_of(server.url) as client:
        for _ in range(5):
            assert file(client, f"{files.url}/x")[0].status_code == 403


def test_a_probe_tells_whether_it_is_up() -> None:
    """HEAD of the index; an answer that it is missing is an answer."""
    statuses = iter((404, 405, 500, 401, 429))
    with serving(lambda handler: handler.send(next(statuses))) as server, client_of(server.url) as client:
        assert [client.probe() for _ in range(5)] == [True, True, False, False, False]


def test_changes_of_state_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Not each failure."""
    failing = threading.Event()
    failing.set()
    with (
        serving(lambda handler: handler.send(500 if failing.is_set() else 200)) as server,
        client_of(server.url) as client,
    ):
        for _ in range(10):
            page(client, server.url)
        failing.clear()
        _until(client.breaker.allows)
    lines = [record.getMessage() for record in caplog.records if "upstream of" in record.getMessage()]
    assert len(lines) == 2
    assert "is down: the upstream answered 500" in lines[0]
    assert "answers again" in lines[1]


def test_what_is_no_url_is_a_fault() -> None:
    """Of the page that links to it."""
    with serving(hello) as server, client_of(server.url) as client:
        for url in ("http://[::1/", "http:///x", "ftp://127.0.0.1/", "http://a b/", "http://" + "a" * 300 + "/"):
            response = page(client, url)[0]
            assert response.status_code == -1, url
            with contextlib.suppress(UpstreamFault):
                file(client, url)
