"""Malformed requests of any client to a real devpi-server: a 4xx, no traceback, and it still serves."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.support.container import Container, cleared_away, login_token, make_index, request, upload

pytestmark = pytest.mark.slow

LOW = ("--argon2-memory-cost", "1024", "--argon2-time-cost", "1", "--argon2-parallelism", "1")
DEEP = 60_000
JSON_BODIES = (
    b"",
    b"null",
    b"5",
    b"1e999",
    b'"text"',
    b"[]",
    b"[1]",
    b'["bases+=5"]',
    b"{}",
    b'{"user": ["a"], "password": "x"}',
    b'{"user": "root", "password": ["x"]}',
    b'{"user": {}, "password": {}}',
    b'{"user": 5, "password": 5}',
    b'{"user": "a\\ud800", "password": "x"}',
    b'{"user": "root", "password": "x\\ud800"}',
    b'{"user": "a\\u0000", "password": "b"}',
    b'{"password": 5}',
    b'{"password": ["x"]}',
    b'{"password": null}',
    b'{"name": 5, "version": 5}',
    b'{"name": "a"}',
    b'{"name": ["a"], "version": "1"}',
    b'{"name": "a", "version": "1", "targetindex": 5}',
    b'{"bases": 5}',
    b"[" * DEEP,
    b"[" * DEEP + b"]" * DEEP,
    b'{"a":' * DEEP,
    b"\xff\xfe",
    b"{",
)
JSON_PATHS = ("/+login", "/alice", "/alice/", "/root", "/root/dev", "/root/dev/", "/root/none", "/root/dev/hello/1.0")
NESTED = b"".join(
    b"--%d\r\nContent-Type: multipart/mixed; boundary=%d\r\n\r\n" % (level, level + 1) for level in range(1000)
)
FORMS = {
    "multipart/form-data": (b"", b"{}"),
    "multipart/form-data; boundary=x": (
        b"--x\r\n\r\n",
        b'--x\r\nContent-Disposition: form-data; name=":action"; filename="x"\r\n\r\nsubmit\r\n--x--\r\n',
        b'--x\r\nContent-Disposition: form-data; name=":action"\r\n\r\nsubmit\r\n--x--\r\n',
    ),
    "multipart/form-data; boundary=0": (NESTED,),
    "application/x-www-form-urlencoded": (b"%3Aaction=%ff", b":action=submit", b"a&" * 40_000),
    "application/x-www-form-urlencoded; charset=nonsense": (b":action=submit",),
    "application/json; charset=nonsense": (b"{}",),
    "text/plain; charset=utf-16": (b"{}",),
}
PATHS = (
    *("/%ff/", "/%ff", "/root/%ff/", "/root/dev/%ff", "/root/dev/+simple/%ff/", "/root/dev/+f/a%ffb", "/%ed%a0%80"),
    *("/root/dev?x=%ff", "/root/dev?%ff", "/root/dev/hello?force=%ff", "/+login?%ff", "/+changelog/0?%ff", "/?%ff"),
    *("/%00", "/root/dev/%00/", "//", "/%2f%2f", "/+changelog/99999999999999999999999-", "/+changelog/%D9%A3"),
    *("http://[/", "http://x:y/", "//[", "/[", "*", "?x", "/\xff"),
)
HEADERS = (
    *("Host: [", "Host: [::1", "Host: \xff", "Host:", "X-Outside-Url: \xff", "X-Outside-Url: http://["),
    *("X-Outside-Url: http://a:b/", "X-Original-URI: /\xff", "X-Original-URI: /%ff", "X-Original-URI: http://["),
    *("Authorization: Basic %%%", "Authorization: Basic /w==", "Authorization: \xff", "X-Devpi-Auth: /w/6Og=="),
    *("Cookie: \xff=\xff", "Accept: \xff", "Content-Type: \xff", "Range: bytes=x", "If-Modified-Since: x"),
)


def ask(devpi: str, method: str, path: str, *headers: str, body: bytes = b"") -> int:
    """Return the raw status of the answer."""
    address = urlsplit(devpi)
    said = {each.partition(":")[0].lower() for each in headers}
    head = [f"{method} {path} HTTP/1.1", "Connection: close", *headers]
    if "host" not in said:
        head.append(f"Host: {address.netloc}")
    if "accept" not in said:
        head.append("Accept: application/json")
    if method != "GET":
        head.append(f"Content-Length: {len(body)}")
    with socket.create_connection((address.hostname, address.port), timeout=60) as client:
        client.sendall("\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body)
        answer = b""
        while more := client.recv(65536):
            answer += more
    return int(answer.split(b" ", 2)[1])


@pytest.fixture(scope="module", params=["root", ""], ids=["restricted", "open"])
def devpi(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A devpi-server with a file, in which only root, or any client, may create users."""
    flags = ("--host", "127.0.0.1", "--port", "0", "--no-root-pypi", "--offline-mode", *LOW)
    env = {"DEVPI_PASSWORD": "given", "DEVPI_RESTRICT_MODIFY": request.param}
    with cleared_away(Container(tmp_path_factory.mktemp("devpi"), flags=flags, env=env)) as container:
        container.start().wait_ready()
        token = login_token(container.devpi, "given")
        upload(make_index(container.devpi, token), token, "hello", b"x" * 100)
        yield container


def holds(container: Container, statuses: dict[str, int]) -> None:
    """Assert no 5xx among these, no traceback in the log, and that devpi-server serves."""
    assert {} == {what: status for what, status in statuses.items() if status >= 500}
    assert "Traceback" not in container.log
    assert request(f"{container.devpi}/+api", accept="application/json").status == 200


def test_json_of_a_wrong_type(devpi: Container) -> None:
    """For each view that reads JSON: other types, other fields, too many brackets, no Unicode, no JSON."""
    holds(
        devpi,
        {
            f"{method} {path} {body[:40]!r}": ask(url, method, path, "Content-Type: application/json", body=body)
            for url in [devpi.devpi]
            for method in ("POST", "PUT", "PATCH", "PUSH")
            for path in JSON_PATHS
            for body in JSON_BODIES
        },
    )


def test_a_login_with_a_list_is_a_bad_request(devpi: Container) -> None:
    """400 and not 401: no such user can exist."""
    for body in (b'{"user": ["a"], "password": "x"}', b"[" * DEEP):
        assert ask(devpi.devpi, "POST", "/+login", body=body) == 400
    assert ask(devpi.devpi, "GET", "/%ff/") == 400


def test_forms_that_cannot_be_read(devpi: Container) -> None:
    """Without a boundary, with an unknown charset, with a file instead of a text."""
    holds(
        devpi,
        {
            f"{method} {path} {kind} {body!r}": ask(url, method, path, f"Content-Type: {kind}", body=body)
            for url in [devpi.devpi]
            for method in ("POST", "PUT", "PATCH", "PUSH")
            for path in ("/", *JSON_PATHS)
            for kind, bodies in FORMS.items()
            for body in bodies
        },
    )


def test_paths_and_queries_that_cannot_be_decoded(devpi: Container) -> None:
    """Percent-encoded bytes that are not UTF-8, and URLs that can't be split."""
    holds(
        devpi,
        {
            f"{method} {path}": ask(url, method, path, body=b"" if method == "GET" else b"{}")
            for url in [devpi.devpi]
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
            for path in PATHS
        },
    )


def test_headers_that_cannot_be_read(devpi: Container) -> None:
    """Invalid hosts, and other invalid text."""
    paths = ("/", "/+authcheck", "/+api", "/+status", "/root/dev", "/root/dev/+simple/hello/", "/root/dev/hello")
    holds(
        devpi,
        {
            f"{path} {header!r}": ask(url, "GET", path, header)
            for url in [devpi.devpi]
            for path in paths
            for header in HEADERS
        },
    )


def test_sound_requests_are_as_they_were(devpi: Container) -> None:
    """Valid paths, queries, hosts and bodies beyond ASCII are accepted."""
    url = devpi.devpi
    assert ask(url, "GET", "/root/dev/+simple/h%C3%A9llo/") in (200, 400, 404)  # devpi accepts no such project
    assert ask(url, "GET", "/root/dev?x=%C3%A9") == 200
    assert ask(url, "GET", "/+api", "Host: [::1]:3141") == 200
    assert ask(url, "GET", "/+api", "X-Outside-Url: https://devpi.example/x") == 200
    assert ask(url, "POST", "/+login", body='{"user": "jörg", "password": "ü"}'.encode()) == 401
    assert ask(url, "POST", "/+login", body=b'{"user": "root", "password": "given"}') == 200


def test_an_answer_to_head_has_no_body(devpi: Container) -> None:
    """A body would be taken for the start of the next answer on the connection."""
    address = urlsplit(devpi.devpi)
    with socket.create_connection((address.hostname, address.port), timeout=60) as client:
        client.sendall(b"HEAD /%ff/ HTTP/1.1\r\nHost: x\r\n\r\n")
        client.sendall(b"GET /+api HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        said = b""
        while more := client.recv(65536):
            said += more
    first, _, rest = said.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 400 ")
    assert rest.startswith(b"HTTP/1.1 200 ")


def test_a_form_is_read_only_where_devpi_reads_one(devpi: Container) -> None:
    """Unreadable bodies of other routes are ignored; a large URL-encoded form is refused before it is parsed."""
    kind = "Content-Type: application/x-www-form-urlencoded"
    assert ask(devpi.devpi, "POST", "/root/dev/", kind, body=b"a&" * 40_000) == 413
    assert ask(devpi.devpi, "POST", "/root/dev/", kind, body=b"a&" * 1000) == 400
    assert ask(devpi.devpi, "POST", "/root/dev/hello/", kind, body=b"a&" * 40_000) in (404, 405)
