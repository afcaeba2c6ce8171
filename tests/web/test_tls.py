"""TLS on the port: real handshakes, renewed certificates, and client certificates."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives import serialization

from sidecar.core.settings import TlsSettings
from sidecar.web.app import make_app
from sidecar.web.context import CONTEXT
from sidecar.web.server import connection, listener, tls
from sidecar.web.server import site as server
from sidecar.web.server.site import WebServer, serve
from sidecar.web.server.tls import Tls, TlsRefused, load
from tests.support.certificates import EXPIRED, Authority, Pair
from tests.support.fake_devpi import eventually
from tests.web.conftest import ADMIN, Site


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA for all tests, because it is slow to make."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def authority(issued: Authority, tmp_path: Path) -> Authority:
    """The same CA, with a folder for this test."""
    return replace(issued, folder=tmp_path)


@dataclass
class Secured:
    """The app on a port with TLS."""

    web: WebServer
    socket: Path

    async def ask(self, client: ssl.SSLContext, method: str, path: str, headers: dict[str, str] | None = None) -> int:
        """Send a request on a new connection, and return the status."""
        async with aiohttp.ClientSession() as session:
            url = f"https://localhost:{self.web.port}{path}"
            async with session.request(method, url, ssl=client, headers=headers) as answer:
                await answer.read()
                return answer.status

    def certificate(self, client: ssl.SSLContext) -> bytes | None:
        """Return the server's certificate as DER."""
        with (
            socket.create_connection(("127.0.0.1", self.web.port), 5) as plain,
            client.wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            return secured.getpeercert(binary_form=True)


Start = Callable[[TlsSettings], Awaitable[Secured]]


@pytest.fixture
async def start(site: Site, tmp_path: Path) -> AsyncIterator[Start]:
    """Serve the app with these settings."""
    running: list[WebServer] = []
    followers: list[asyncio.Task[None]] = []

    async def serve_by(settings: TlsSettings) -> Secured:
        made = Tls(settings)
        context = replace(site.web.runner.app[CONTEXT], client_certificates=settings.client_ca is not None)
        web = await serve(make_app(context), "127.0.0.1", 0, tls=made.context, local=tmp_path / "http")
        running.append(web)
        followers.append(asyncio.create_task(made.keep_fresh()))
        return Secured(web, tmp_path / "http")

    yield serve_by
    for follower in followers:
        follower.cancel()
    await asyncio.gather(*followers, return_exceptions=True)
    for web in running:
        await web.stop()


def settings_of(pair: Pair, client_ca: Path | None = None) -> TlsSettings:
    return TlsSettings(pair.cert, pair.key, client_ca)


# --- serving -------------------------------------------------------------------------------------------------------


async def test_a_handshake(start: Start, authority: Authority) -> None:
    """A modern client that trusts the CA gets an answer; a plain HTTP one is disconnected."""
    secured = await start(settings_of(authority.issue("server")))
    assert 200 == await secured.ask(authority.client(), "GET", "/livez")
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await secured.ask(ssl.create_default_context(), "GET", "/livez")
    reader, writer = await asyncio.open_connection("127.0.0.1", secured.web.port)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"200" not in await asyncio.wait_for(reader.read(), 5)
    writer.close()


@pytest.mark.parametrize(("version", "taken"), [("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)])
async def test_versions(start: Start, authority: Authority, version: str, taken: bool) -> None:
    """1.2 is the minimum."""
    secured = await start(settings_of(authority.issue("server")))
    client = authority.client()
    client.set_ciphers("DEFAULT:@SECLEVEL=0")  # otherwise OpenSSL doesn't try the old one
    with contextlib.nullcontext() if taken else pytest.warns(DeprecationWarning, match="TLSv1_1"):
        client.minimum_version = client.maximum_version = ssl.TLSVersion[version]
    if taken:
        assert 200 == await secured.ask(client, "GET", "/livez")
    else:
        with pytest.raises(aiohttp.ClientConnectorError):
            await secured.ask(client, "GET", "/livez")


async def test_certificate_and_key_in_one_file(start: Start, authority: Authority) -> None:
    """As some tools write them."""
    pair = authority.issue("server")
    pair.cert.write_bytes(pair.key.read_bytes() + pair.cert.read_bytes())
    secured = await start(TlsSettings(pair.cert))
    assert 200 == await secured.ask(authority.client(), "GET", "/livez")


@pytest.mark.parametrize(
    "others", [b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00"], ids=["silent", "part", "more"]
)
async def test_a_handshake_among_many_that_stall(
    start: Start, authority: Authority, others: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that has sent its whole first record isn't closed for those that have not, however many; nor is
    one that has finished its handshake.
    """
    for module in (connection, listener):
        monkeypatch.setattr(module, "HEAD_SECONDS", 600.0)  # no cut because the machine is slow
    secured = await start(settings_of(authority.issue("server")))
    address = ("127.0.0.1", secured.web.port)
    idle = await asyncio.open_connection(*address, ssl=authority.client(), server_hostname="localhost")
    loop = asyncio.get_running_loop()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = authority.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.ExitStack() as opened:
        probe = opened.enter_context(socket.create_connection(address))
        probe.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            session.do_handshake()
        await loop.sock_sendall(probe, outgoing.read())
        await eventually(lambda: len(secured.web.limit._greeting) == 1)
        for _ in range(3 * server.MOST_TLS):
            stalled = opened.enter_context(socket.socket())
            stalled.setblocking(False)
            await loop.sock_connect(stalled, address)
            await loop.sock_sendall(stalled, others)
        await eventually(lambda: len(secured.web.limit._silent) == server.MOST_TLS // 2 - 1)
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                session.do_handshake()
                break
            incoming.write(await asyncio.wait_for(loop.sock_recv(probe, 65536), 60))
        session.write(b"GET /livez HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        await loop.sock_sendall(probe, outgoing.read())
        answer = b""
        while b"200 OK" not in answer:
            incoming.write(await asyncio.wait_for(loop.sock_recv(probe, 65536), 60))
            with contextlib.suppress(ssl.SSLWantReadError):
                answer += session.read(65536)
        idle[1].write(b"GET /livez HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert b"200 OK" in await asyncio.wait_for(idle[0].read(), 60)
    idle[1].close()


async def test_a_page_in_clear_is_of_another_origin(start: Start, authority: Authority) -> None:
    """On a port with TLS, an `Origin` with http is a foreign one."""
    secured = await start(settings_of(authority.issue("server")))
    here = f"127.0.0.1:{secured.web.port}"
    for scheme in ("http", "https"):
        headers = ADMIN | {"Origin": f"{scheme}://{here}", "Host": here}
        status = await secured.ask(authority.client(), "POST", "/bootstrap/root-password", headers=headers)
        assert (status == 403) == (scheme == "http")


@pytest.mark.alone
async def test_handshakes_that_do_not_come(start: Start, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number and time are limited, and others get through meanwhile."""
    monkeypatch.setattr(connection, "HEAD_SECONDS", 1.0)
    secured = await start(settings_of(authority.issue("server")))
    silent = [await asyncio.open_connection("127.0.0.1", secured.web.port) for _ in range(300)]
    silent[-1][1].write(b"\x16\x03\x01")
    assert len(secured.web.limit) <= server.MOST_TLS
    begun = time.monotonic()
    assert 200 == await secured.ask(authority.client(), "GET", "/livez")
    assert time.monotonic() - begun < 1
    for reader, writer in silent:
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 5)
        writer.transport.abort()
    assert len(secured.web.limit) == 0


# --- renewal -------------------------------------------------------------------------------------------------------


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.02)


@pytest.fixture
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the files more often."""
    monkeypatch.setattr(tls, "LOOK_SECONDS", 0.05)


@pytest.mark.usefixtures("watchful")
async def test_a_link_that_is_swapped(start: Start, authority: Authority, tmp_path: Path) -> None:
    """As Kubernetes renews a mounted secret; open connections continue."""
    for version in ("1", "2"):
        pair = authority.issue(f"server{version}")
        (tmp_path / version).mkdir()
        shutil.move(pair.cert, tmp_path / version / "tls.crt")
        shutil.move(pair.key, tmp_path / version / "tls.key")
    (tmp_path / "..data").symlink_to("1")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    secured = await start(TlsSettings(tmp_path / "tls.crt", tmp_path / "tls.key"))
    client = authority.client()
    first = await asyncio.to_thread(secured.certificate, client)
    url = f"https://localhost:{secured.web.port}/livez"
    async with aiohttp.ClientSession() as session:
        async with session.get(url, ssl=client) as answer:
            assert answer.status == 200
        (tmp_path / "..new").symlink_to("2")
        (tmp_path / "..new").rename(tmp_path / "..data")
        await until(lambda: secured.certificate(client) != first)
        async with session.get(url, ssl=client) as answer:
            assert answer.status == 200


@pytest.mark.usefixtures("watchful")
async def test_a_bad_renewal_is_refused(start: Start, authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    """Logged once, with variable and hint; the old one stays in use until a valid one arrives."""
    caplog.set_level(logging.INFO)
    pair = authority.issue("server")
    secured = await start(settings_of(pair))
    client = authority.client()
    first = await asyncio.to_thread(secured.certificate, client)
    other = authority.issue("other")
    other.cert.replace(pair.cert)  # its key is late
    await until(lambda: "can't use the new TLS files" in caplog.text)
    assert "SIDECAR_TLS_KEY: the key in" in caplog.text
    assert first == await asyncio.to_thread(secured.certificate, client)
    other.key.replace(pair.key)
    await until(lambda: "have changed" in caplog.text)
    assert first != await asyncio.to_thread(secured.certificate, client)
    assert 1 == caplog.text.count("can't use the new TLS files")


@pytest.mark.usefixtures("watchful")
async def test_files_that_go_and_come_back(
    start: Start, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """The old one stays in use, whatever happens to its files."""
    caplog.set_level(logging.INFO)
    pair = authority.issue("server")
    secured = await start(settings_of(pair))
    aside = pair.cert.rename(pair.cert.with_suffix(".aside"))
    await until(lambda: "SIDECAR_TLS_CERT: can't read" in caplog.text)
    assert 200 == await secured.ask(authority.client(), "GET", "/livez")
    aside.rename(pair.cert)
    await until(lambda: "have changed" in caplog.text)


@pytest.mark.usefixtures("watchful")
async def test_the_clients_ca_is_renewed_too(start: Start, authority: Authority, tmp_path: Path) -> None:
    """A client with a certificate of the new CA is accepted."""
    trusted = tmp_path / "clients.pem"
    trusted.write_bytes(authority.file.read_bytes())
    secured = await start(settings_of(authority.issue("server"), trusted))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = Authority(elsewhere)
    client = authority.client(other.issue("admin"))
    with pytest.raises(aiohttp.ClientError):
        await secured.ask(client, "GET", "/bootstrap", ADMIN)
    trusted.write_bytes(other.file.read_bytes())
    async with asyncio.timeout(10):
        while True:
            try:
                assert 200 == await secured.ask(client, "GET", "/bootstrap", ADMIN)
                return
            except aiohttp.ClientError:
                await asyncio.sleep(0.02)


# --- client certificates -------------------------------------------------------------------------------------------


async def test_client_certificates(start: Start, authority: Authority, site: Site) -> None:
    """Admin routes require one and the token; probes require none; one of another CA is refused."""
    site.generate_password()
    secured = await start(settings_of(authority.issue("server"), authority.file))
    without, with_one = authority.client(), authority.client(authority.issue("admin"))
    assert 503 == await secured.ask(without, "GET", "/readyz")
    assert 200 == await secured.ask(without, "GET", "/livez")
    for method, path in (("GET", "/bootstrap"), ("POST", "/bootstrap/root-password"), ("POST", "/bootstrap/rotate")):
        assert 403 == await secured.ask(without, method, path, ADMIN)
        assert 401 == await secured.ask(with_one, method, path)
    assert site.credentials.root_password.state == "claimable"
    assert 200 == await secured.ask(with_one, "POST", "/bootstrap/root-password", ADMIN)


async def test_a_certificate_of_a_strange_ca(start: Start, authority: Authority, tmp_path: Path) -> None:
    """The handshake fails."""
    secured = await start(settings_of(authority.issue("server"), authority.file))
    (tmp_path / "strange").mkdir()
    stranger = authority.client(Authority(tmp_path / "strange").issue("admin"))
    with pytest.raises(aiohttp.ClientError):
        await secured.ask(stranger, "GET", "/bootstrap", ADMIN)


async def test_the_socket_inside(start: Start, authority: Authority, site: Site) -> None:
    """A client of the socket in the private folder needs the token, but neither TLS nor a certificate; its
    claim is recorded as from localhost.
    """
    site.generate_password()
    secured = await start(settings_of(authority.issue("server"), authority.file))
    folder = os.open(secured.socket.parent, os.O_RDONLY)
    connector = aiohttp.UnixConnector(f"/proc/self/fd/{folder}/{secured.socket.name}")
    async with aiohttp.ClientSession(connector=connector) as session:
        async with session.post("http://localhost/bootstrap/root-password") as answer:
            assert answer.status == 401
        async with session.post("http://localhost/bootstrap/root-password", headers=ADMIN) as answer:
            assert answer.status == 200
    os.close(folder)
    assert site.credentials.root_password.claimed_from == "localhost"


# --- what is refused -----------------------------------------------------------------------------------------------

CERT, KEY, CA = "SIDECAR_TLS_CERT", "SIDECAR_TLS_KEY", "SIDECAR_TLS_CLIENT_CA"


def encrypted(pair: Pair) -> None:
    """With a passphrase, which nobody can enter."""
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    how = serialization.BestAvailableEncryption(b"secret")
    pair.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how),
    )


def of_another(pair: Pair) -> None:
    """As if only one of two files was copied."""
    other = Authority(pair.key.parent).issue("other")
    pair.key.write_bytes(other.key.read_bytes())


BAD: dict[str, tuple[Callable[[Pair], object], str, str]] = {
    "no certificate": (lambda pair: pair.cert.unlink(), CERT, "can't read"),
    "no key": (lambda pair: pair.key.unlink(), KEY, "can't read"),
    "a folder": (lambda pair: (pair.key.unlink(), pair.key.mkdir()), KEY, "is not a regular file"),
    "a pipe": (lambda pair: (pair.cert.unlink(), os.mkfifo(pair.cert)), CERT, "is not a regular file"),
    "an empty certificate": (lambda pair: pair.cert.write_bytes(b""), CERT, "contains no certificate in PEM format"),
    "exchanged": (
        lambda pair: pair.key.write_bytes(pair.cert.read_bytes()),
        KEY,
        "contains no private key in PEM format",
    ),
    "another key": (of_another, KEY, "does not match the first certificate in"),
    "an encrypted key": (encrypted, KEY, "is encrypted"),
    "a torn certificate": (lambda pair: pair.cert.write_bytes(pair.cert.read_bytes()[:200]), CERT, "can't be used"),
    "a torn key": (lambda pair: pair.key.write_bytes(pair.key.read_bytes()[:100]), CERT, "can't be used"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files(authority: Authority, what: str) -> None:
    """The error, the file and the hint; never the content of the key."""
    spoil, variable, reason = BAD[what]
    pair = authority.issue("server")
    spoil(pair)
    with pytest.raises(TlsRefused) as caught:
        load(settings_of(pair))
    assert caught.value.variable == variable
    assert reason in caught.value.reason
    assert caught.value.hint
    assert str(pair.key.parent) in caught.value.reason


@pytest.mark.parametrize(
    ("given", "variable"), [(TlsSettings(key=Path("/k")), KEY), (TlsSettings(client_ca=Path("/c")), CA)]
)
def test_settings_without_a_certificate(given: TlsSettings, variable: str) -> None:
    """Nobody shall think that TLS is on."""
    with pytest.raises(TlsRefused, match=f"{variable}: SIDECAR_TLS_CERT is not set; set SIDECAR_TLS_CERT"):
        load(given)


@pytest.mark.parametrize("content", ["", "-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n"])
def test_a_bad_client_ca(authority: Authority, tmp_path: Path, content: str) -> None:
    """Otherwise no admin could get in, or anybody."""
    (tmp_path / "bad.pem").write_text(content)
    with pytest.raises(TlsRefused) as caught:
        load(settings_of(authority.issue("server"), tmp_path / "bad.pem"))
    assert caught.value.variable == CA


def test_warnings(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    """An expired certificate and a world-readable key are used with a warning."""
    load(settings_of(authority.issue("good")))
    assert [] == caplog.records
    pair = authority.issue("server", ends=EXPIRED)
    pair.key.chmod(0o644)
    load(settings_of(pair))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "SIDECAR_TLS_KEY: every user can read" in said[0]
    assert "certificate has expired" in said[1]
