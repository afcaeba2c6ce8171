"""The upstream of tests and bench does what its faults say, as a plain client sees them."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from testbed import upstream_faults as faults
from testbed.upstream import Fault, Project, Upstream, numbered

MIB = 2**20


pytestmark = pytest.mark.slow


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """An index of 20 numbered projects, and some others."""
    projects = {
        "streamed": Project(streamed=5 * MIB + 1),
        "many": Project(versions=1000),
        "changes": Project(changes=True),
        "requires": Project(requires=("one>=1",)),
    }
    with Upstream(["one"], size=20, versions=2, projects=projects, one_invalid_in=10) as made:
        yield made


def get(
    upstream: Upstream, path: str, *, most: int = -1, patience: float = 60, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Send one request; read `most` bytes of the body. Raises OSError, http.client.HTTPException."""
    connection = http.client.HTTPConnection(urlsplit(upstream.url).netloc, timeout=patience)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read() if most < 0 else answer.read(most)
    finally:
        connection.close()


def page(upstream: Upstream, name: str) -> Any:
    """A page, parsed."""
    return json.loads(get(upstream, f"/simple/{name}/")[2])


def test_pages_and_files(upstream: Upstream) -> None:
    """Sizes and digests are right, of wheels, of metadata and of streamed files."""
    for name, count in (("one", 2), ("requires", 2), ("streamed", 1), ("many", 1000), (numbered(19), 2)):
        files = page(upstream, name)["files"]
        assert count == len(files)
        for each in (files[0], files[-1]):
            body = get(upstream, each["url"])[2]
            assert (each["size"], each["hashes"]["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
            if "core-metadata" in each:
                metadata = get(upstream, each["url"] + ".metadata")[2]
                assert each["core-metadata"]["sha256"] == hashlib.sha256(metadata).hexdigest()
                assert (b"Requires-Dist: one>=1" in metadata) is (name == "requires")
    assert 404 == get(upstream, f"/simple/{numbered(20)}/")[0]
    assert 404 == get(upstream, "/files/one/one-1.2-py3-none-any.whl")[0]
    (url,) = {each["url"] for each in page(upstream, "changes")["files"][:1]}
    assert get(upstream, url)[2] != get(upstream, url)[2]


def test_lists(upstream: Upstream) -> None:
    """With invalid names, as JSON and HTML, with ETag and serial."""
    upstream.etag, upstream.list_serial = '"a"', 12
    _, headers, body = get(upstream, "/simple/")
    names = [each["name"] for each in json.loads(body)["projects"]]
    assert len(set(upstream.names()) - set(names)) == 0
    assert 2 == len(set(names) - set(upstream.names()))
    assert ('"a"', "12") == (headers["ETag"], headers["X-PyPI-Last-Serial"])
    assert 304 == get(upstream, "/simple/", **{"If-None-Match": '"a"'})[0]
    upstream.as_html = True
    assert get(upstream, "/simple/")[2].count(b"<a href=") == len(names)
    assert get(upstream, "/simple/one/")[2].count(b"#sha256=") == 2
    assert upstream.count("/simple/") == 3


def test_bodies(upstream: Upstream) -> None:
    """Each is what it says it is."""
    right = get(upstream, "/simple/one/")[2]
    upstream.page_fault = faults.ZIPPED
    assert right == gzip.decompress(get(upstream, "/simple/one/")[2])
    upstream.page_fault = faults.CUT
    with pytest.raises(http.client.IncompleteRead):
        get(upstream, "/simple/one/")
    upstream.page_fault = faults.ENDLESS
    assert MIB == len(get(upstream, "/simple/one/", most=MIB)[2])
    upstream.page_fault = Fault(bomb=2**26)
    small = get(upstream, "/simple/one/")[2]
    assert len(small) < MIB
    with pytest.raises(EOFError):
        gzip.decompress(small)  # without an end
    upstream.page_fault = faults.IMAGE
    assert "image/png" == get(upstream, "/simple/one/")[1]["Content-Type"]
    upstream.page_fault = faults.TO_LOGIN_PAGE
    assert "/login" == get(upstream, "/simple/one/")[1]["Location"]
    upstream.page_fault = faults.LOOP
    assert "/simple/one/" == get(upstream, "/simple/one/")[1]["Location"]
    upstream.page_fault = Fault(429, "9")
    assert "9" == get(upstream, "/simple/one/")[1]["Retry-After"]
    upstream.page_fault = faults.HANGS
    with pytest.raises(TimeoutError):
        get(upstream, "/simple/one/", patience=0.5)
    upstream.heal()
    assert right == get(upstream, "/simple/one/")[2]


def test_listeners(upstream: Upstream) -> None:
    """Refused, dropped and never read; the port stays."""
    port = upstream.port
    upstream.refuse()
    with pytest.raises(ConnectionRefusedError):
        get(upstream, "/simple/one/")
    upstream.swallow()
    with pytest.raises(TimeoutError):
        get(upstream, "/simple/one/", patience=0.5)
    upstream.drop()
    with pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", port), 0.5)
    upstream.heal()
    assert (200, port) == (get(upstream, "/simple/one/")[0], upstream.port)
    assert upstream.connections == 2  # a refused or dropped one is none


def test_tls_of_each_kind(upstream: Upstream) -> None:
    """A client that trusts the authority accepts the first only."""
    context = ssl.create_default_context(cadata=upstream.tls.authority.decode())
    refused = {}
    for kind in ("trusted", "untrusted", "expired", "wrong name"):
        upstream.listen_tls(kind)
        try:
            with socket.create_connection(("127.0.0.1", upstream.port), 60) as plain:
                context.wrap_socket(plain, server_hostname="127.0.0.1").close()
        except ssl.SSLCertVerificationError as error:
            refused[kind] = error.verify_message
    assert {"untrusted", "expired", "wrong name"} == refused.keys()
    assert "expired" in refused["expired"]
    assert "mismatch" in refused["wrong name"]


def test_passwords(upstream: Upstream) -> None:
    """Required from all requests, and those with any are noted."""
    upstream.user = "someone:secret"
    assert 401 == get(upstream, "/simple/one/")[0]
    assert 200 == get(upstream, "/simple/one/", Authorization="Basic c29tZW9uZTpzZWNyZXQ=")[0]
    assert ["/simple/one/"] == upstream.authorised
