"""The whole API with generated requests: every answer is documented, and arrives soon."""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from sidecar.web import admin_auth
from sidecar.web.api import bootstrap
from sidecar.web.app import ROUTES
from sidecar.web.server import connection
from tests.web.conftest import ADMIN, PASSWORD, TOKEN, Site

many = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
PROBLEMS = {"about:blank"} | {
    f"urn:devpi-sidecar:problem:{name}"
    for name in ("not-yet", "not-running", "nothing-to-claim", "already-claimed", "expired", "cannot-rotate")
}
DOCUMENTED = {
    (route.method, route.path.replace("{check}", "http")): {
        int(code) for code in re.findall(r"\b([2-5]\d\d)\b", route.handler.__doc__ or "")
    }
    for route in ROUTES
}
"""Which codes a handler's docstring names; docs/http-api.md has the same (tests/project/test_docs.py)."""
EVERYWHERE = {400, 404, 405, 408, 413, 417, 431}
"""Codes of requests that no handler sees: see `sidecar.web.middleware` and `sidecar.web.server.connection`."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    """Nothing is waited for: wrong tokens, bodies, heads and further requests that don't come."""
    monkeypatch.setattr(admin_auth, "DELAY", 0.0001)
    monkeypatch.setattr(bootstrap, "BODY_PATIENCE", 0.02)
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.05)
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(connection, "_LINGER_SECONDS", 0.02)
    site.generate_password()


def answers(raw: bytes, *, to_head: bool = False) -> list[tuple[int, bytes, bytes]]:
    """Return status, head and body of each answer; `to_head`: to HEAD, without a body unless it wasn't read."""
    found = []
    while raw:
        head, end, rest = raw.partition(b"\r\n\r\n")
        assert end, raw
        match = re.match(rb"HTTP/(?:1\.[01]|0\.9) ([1-5]\d\d) ", head)
        assert match, raw
        length = re.search(rb"\r\nContent-Length: (\d+)", head)
        size = int(length[1]) if length and not (to_head and (not rest or rest.startswith(b"HTTP/"))) else 0
        found.append((int(match[1]), head, rest[:size]))
        raw = rest[size:]
    return found


def check(status: int, head: bytes, body: bytes) -> None:
    """Check that an answer discloses nothing, and that an error is a problem."""
    assert status != 500, body
    assert b"Traceback" not in body
    assert b"aiohttp" not in head
    assert b"Server: devpi-sidecar" in head or status == 100
    if status >= 400 and b"application/problem+json" in head and body:
        problem = json.loads(body)
        assert problem["type"] in PROBLEMS
        assert problem["status"] == status
        assert TOKEN not in body.decode()
        assert PASSWORD not in body.decode()
    elif status >= 400:
        assert status == 503 or not body  # a probe's own format, or HEAD


# --- requests -------------------------------------------------------------------------------------------------------

visible = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
words = st.text(visible, min_size=1, max_size=12)
methods = st.sampled_from(
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "M-SEARCH", "PRI"]
)
pieces = st.sampled_from(
    ["", ".", "..", "%2e%2e", "%2f", "%00", "%ff", "%", "%zz", "livez", "readyz", "bootstrap", "etc", "static", "*"]
)
known = st.sampled_from([path for _, path in DOCUMENTED])
paths = st.one_of(known, st.builds(lambda *parts: "/" + "/".join(parts), pieces, pieces, pieces | words), words)
queries = st.one_of(
    st.just(""),
    st.sampled_from(
        ["?verbose", "?exclude=http", "?exclude=%ff", "?keep_logins=true", "?keep_logins=2", "?&=&", "?" * 9]
    ),
    words.map("?{}".format),
)
texts = st.binary(max_size=30).map(lambda text: re.sub(rb"[\r\n\0]", b"?", text))
headers = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([b"Host", b"Origin", b"Accept", b"Expect", b"Upgrade", b"Range", b"Cookie"]), texts),
        st.tuples(st.sampled_from([b"X-Forwarded-For", b"X-Forwarded-Host", b"Forwarded", b"X-Original-URL"]), texts),
        st.tuples(
            st.just(b"Authorization"), st.sampled_from([b"Bearer x", b"Basic eDp4", ADMIN["Authorization"].encode()])
        ),
        st.tuples(st.just(b"Authorization"), texts),
        st.tuples(
            st.just(b"Accept"), st.sampled_from([b"application/json", b"text/html;q=x", b"*/*;q=0", b"a/b," * 99])
        ),
        st.sampled_from(
            [
                (b"Expect", b"100-continue"),
                (b"Upgrade", b"websocket"),
                (b"Connection", b"Upgrade"),
                (b"Content-Encoding", b"gzip"),
                (b"Content-Type", b"multipart/form-data"),
                (b"Transfer-Encoding", b"chunked"),
                (b"Transfer-Encoding", b"gzip, chunked"),
                (b"Content-Length", b"5"),
                (b"Content-Length", b"0"),
                (b"Content-Length", b"99999999999999999999"),
            ]
        ),
    ),
    max_size=5,
)
bodies = st.one_of(
    st.just(b""),
    st.sampled_from(
        [b"{}", b'{"keep_logins": true}', b"5\r\nhello\r\n0\r\n\r\n", b"[" * 3000, b"\x1f\x8b" + bytes(50)]
    ),
    st.binary(max_size=60),
)


@many
@given(method=methods, path=paths, query=queries, fields=headers, body=bodies)
@example("GET", "/bootstrap", "", [(b"Authorization", b"Bearer \xff\xfe")], b"")
@example("POST", "/bootstrap/rotate", "", [(b"Expect", b"200-maybe")], b"")
@example("GET", "/", "", [(b"Expect", b"\x80")], b"")
async def test_made_up_requests(
    site: Site, method: str, path: str, query: str, fields: list[tuple[bytes, bytes]], body: bytes
) -> None:
    """A known route answers as documented; any other request gets a problem."""
    assume((method, path) != ("GET", "/events"))  # a stream has no end: tests/web/test_events.py
    if b"Host" not in dict(fields):
        fields = [(b"Host", b"devpi"), *fields]  # with none or two, nothing else would be checked
    head = [f"{method} {path}{query} HTTP/1.1".encode(), b"Connection: close", *(b": ".join(each) for each in fields)]
    begun = time.monotonic()
    raw = await site.raw(b"\r\n".join([*head, b"", body]))
    assert time.monotonic() - begun < 30, "it would wait for ever"
    found = answers(raw, to_head=method == "HEAD")
    for status, top, content in found:
        check(status, top, content)
    documented = DOCUMENTED.get(("GET" if method == "HEAD" else method, path), set())
    if found and found[0][0] != 100:
        assert found[0][0] in documented | EVERYWHERE | {204}


tokens = st.sampled_from(
    [
        *(b"GET /livez HTTP/1.1\r\n", b"POST /bootstrap/rotate HTTP/1.1\r\n", b"GET http://other/livez HTTP/1.1\r\n"),
        *(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/0.9\r\n", b"\r\n", b"\r", b"\n", b" ", b"\t"),
        *(
            b"Host: h\r\n",
            b"Content-Length: 5\r\n",
            b"Content-Length: +5\r\n",
            b"Content-Length:5\n",
            b"X: a\r\n b\r\n",
        ),
        *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding : chunked\r\n", b"hello", b"5\r\nhello\r\n"),
        *(b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"5;x=\n\r\n"),
    ]
)
pieced_together = st.lists(st.binary(max_size=40) | tokens, max_size=8).map(b"".join)


@many
@given(pieced_together.filter(lambda sent: b"/events" not in sent))  # a stream has no end
@example(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
async def test_made_up_bytes(site: Site, sent: bytes) -> None:
    """For any bytes, each answer is complete, none is 500, and the connection ends in time."""
    begun = time.monotonic()
    raw = await site.raw(sent)
    assert time.monotonic() - begun < 30, "it would wait for ever"
    for each in answers(raw):
        check(*each)


async def test_the_app_is_as_it_was(site: Site) -> None:
    """No connection of these stays open."""
    await test_made_up_bytes.hypothesis.inner_test(site, b"GET /livez HTTP/1.1\r\n")  # type: ignore[attr-defined]
    assert (await site.get("/livez")).body == b"ok"
    assert len(site.web.limit) == 1  # the session's own
