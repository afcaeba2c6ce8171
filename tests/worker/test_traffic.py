"""devpi-server's requests, counted inside it: every class, status, byte and second, to the end of the body."""

from __future__ import annotations

import io
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from waitress.buffers import ReadOnlyFileBasedBuffer

from sidecar.core.request_id import REQUEST_ID
from sidecar.devpi.protocol import PROBE_HEADER, REQUEST_SECONDS, ROUTES, Requests, decode, encode
from sidecar.worker import traffic
from sidecar.worker.access_log import PROBE, AccessLogFilter
from sidecar.worker.traffic import Traffic, classify

PIP = "pip/25.0"


@pytest.fixture(autouse=True)
def thread_without_a_request() -> Iterator[None]:
    """A thread keeps the id of its last request; all tests share this thread."""
    yield
    REQUEST_ID.set(None)


@pytest.mark.parametrize(
    ("method", "path", "headers", "route"),
    [
        ("GET", "/root/dev/+simple/", {}, "simple"),
        ("GET", "/root/dev/+simple/hello/", {"HTTP_ACCEPT": "application/json"}, "simple"),
        ("POST", "/root/dev/+simple/hello/refresh", {}, "simple"),
        ("GET", "/root/dev", {"HTTP_USER_AGENT": PIP}, "simple"),
        ("GET", "/root/dev/hello", {"HTTP_USER_AGENT": PIP}, "simple"),
        ("GET", "/root/dev/+f/abc/0123/hello-1.0.tar.gz", {}, "file"),
        ("HEAD", "/root/dev/+e/abc/0123/hello-1.0.tar.gz", {}, "file"),
        ("DELETE", "/root/dev/+f/abc/0123/hello-1.0.tar.gz", {}, "api"),
        ("POST", "/root/dev/", {"CONTENT_TYPE": "multipart/form-data; boundary=x"}, "upload"),
        ("POST", "/root/dev", {"CONTENT_TYPE": "application/json"}, "api"),
        ("PUT", "/root/dev", {}, "api"),
        ("GET", "/+api", {}, "api"),
        ("GET", "/root/+api", {}, "api"),
        ("GET", "/root/dev/+api", {}, "api"),
        ("POST", "/+login", {}, "api"),
        ("GET", "/+changelog/17-", {}, "replication"),
        ("GET", "/root/dev/hello", {"HTTP_ACCEPT": "application/json"}, "api"),
        ("GET", "/root/dev/hello", {"HTTP_ACCEPT": "text/html"}, "other"),
        ("GET", "/+static-1/style.css", {}, "other"),
        ("GET", "/", {"HTTP_USER_AGENT": "pip"}, "other"),
        ("GET", "", {}, "other"),
        ("<script>", "/\n\N{RIGHT-TO-LEFT OVERRIDE}" + "x" * 10_000, {}, "api"),
    ],
)
def test_a_request_is_of_one_class(method: str, path: str, headers: dict[str, str], route: str) -> None:
    """By devpi's own routes."""
    assert route == classify({"REQUEST_METHOD": method, "PATH_INFO": path, **headers})


class Served:
    """A body that streams; its chunks arrive when `go` is set."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = iter(chunks)
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self.chunks

    def close(self) -> None:
        self.closed = True


def ask(app: Callable[..., Iterable[bytes]], path: str = "/root/dev/+f/x", **more: Any) -> Iterable[bytes]:
    """Make one GET as waitress does; the caller reads and closes the body."""
    return app({"REQUEST_METHOD": "GET", "PATH_INFO": path, **more}, lambda *_: None)


def answering(body: Iterable[bytes], status: str = "200 OK") -> Traffic:
    """Return a devpi that always gives this answer."""

    def devpi(_environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        start(status, [])
        return body

    return Traffic(devpi)


def test_a_stream_ends_with_its_body() -> None:
    """In flight until waitress closes it; then status, bytes and duration are counted, once."""
    served = Served(b"abc", b"defg")
    app = answering(served, "206 Partial Content")
    body: Any = ask(app)
    assert b"abcdefg" == b"".join(body)
    before = app.totals().routes["file"]
    assert (1, {}, 0) == (before["in_flight"], before["statuses"], before["bytes"])
    body.close()
    body.close()
    after = app.totals().routes["file"]
    assert (0, {"206": 1}, 7) == (after["in_flight"], after["statuses"], after["bytes"])
    assert (True, 1) == (served.closed, sum(after["durations"]))


def test_a_client_that_leaves_has_got_what_it_got() -> None:
    """waitress closes the body before its end."""
    app = answering(Served(b"abc", b"defg"))
    body: Any = ask(app)
    next(body)
    body.close()
    assert (3, {"200": 1}) == tuple(app.totals().routes["file"][name] for name in ("bytes", "statuses"))


def test_a_whole_body_stays_what_it_is() -> None:
    """waitress sends a list of one with Content-Length; it would send an iterator in chunks."""
    given = [b"whole"]
    app = answering(given)
    assert ask(app) is given
    assert (0, 5) == tuple(app.totals().routes["file"][name] for name in ("in_flight", "bytes"))


def a_file(size: int) -> tuple[Traffic, Any]:
    """Return devpi's answer with a file of this size, and the object that counts it."""

    def devpi(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        start("200 OK", [])
        file: Iterable[bytes] = environ["wsgi.file_wrapper"](io.BytesIO(b"x" * size), 32)
        return file

    app = Traffic(devpi)
    return app, ask(app)


@pytest.mark.parametrize("sent", [1000, 400, 0])
def test_a_file_stays_what_waitress_knows(sent: int) -> None:
    """waitress sends its own file buffers itself, and closes them after sending, or when their client has left."""
    app, body = a_file(1000)
    assert isinstance(body, ReadOnlyFileBasedBuffer)
    assert 1000 == body.prepare(None)
    assert 1000 == len(body.get(1000))
    assert sent == len(body.get(sent, skip=True))
    assert 1 == app.totals().routes["file"]["in_flight"]
    body.close()
    body.close()
    assert body.file.closed
    assert (0, sent, {"200": 1}) == tuple(
        app.totals().routes["file"][name] for name in ("in_flight", "bytes", "statuses")
    )


def test_a_file_that_is_not_answered_with_is_not_counted() -> None:
    """devpi may open a file, and answer with an error."""

    def devpi(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        environ["wsgi.file_wrapper"](io.BytesIO(b"x" * 1000)).close()
        start("404 Not Found", [])
        return [b"gone"]

    app = Traffic(devpi)
    ask(app)
    assert (4, {"404": 1}) == tuple(app.totals().routes["file"][name] for name in ("bytes", "statuses"))


def test_an_app_that_raises_is_a_500() -> None:
    """As waitress answers."""

    def devpi(_environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        start("200 OK", [])
        raise ValueError("a bug")

    app = Traffic(devpi)
    with pytest.raises(ValueError, match="a bug"):
        ask(app, "/+api")
    assert (0, {"500": 1}) == tuple(app.totals().routes["api"][name] for name in ("in_flight", "statuses"))


@pytest.mark.parametrize(("length", "counted"), [("1234", 1234), ("", 0), (None, 0)])
def test_what_a_client_sends_is_counted(length: str | None, counted: int) -> None:
    """By the length of the body: waitress has received all of it, and knows its length at the end."""
    app = answering([b"ok"])
    more = {} if length is None else {"CONTENT_LENGTH": length}
    for _ in range(2):
        ask(app, **more)
    totals = app.totals().routes["file"]
    assert (2 * counted, 4) == (totals["received"], totals["bytes"])


def test_the_sidecars_own_looks_are_not_counted() -> None:
    """Those with this run's secret; all others are."""
    app = answering([b"x"])
    quiet = AccessLogFilter(app, "the secret")
    key = f"HTTP_{PROBE_HEADER.upper().replace('-', '_')}"
    ask(quiet, "/+api", **{key: "the secret"})
    assert {} == app.totals().routes["api"]["statuses"]
    ask(quiet, "/+api", **{key: "a guess"})
    assert {"200": 1} == app.totals().routes["api"]["statuses"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        *[("from-a-proxy:7", True), ("a" * 128, True), ("a" * 129, False), ("a\nb", False), ("", False)],
        *[("a, b", False), ("<script>", False), (None, False)],
    ],
)
def test_a_request_has_an_id(given: str | None, kept: bool) -> None:
    """A proxy's, if it is sane; in the answer, in the log meanwhile, and for a primary behind a replica."""
    seen: list[tuple[str | None, str]] = []
    answered: list[list[tuple[str, str]]] = []

    def devpi(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        seen.append((REQUEST_ID.get(), environ["HTTP_X_REQUEST_ID"]))
        start("200 OK", [("Vary", "Accept")])
        return [b""]

    app = Traffic(devpi)
    headers = {} if given is None else {"HTTP_X_REQUEST_ID": given}
    for _ in range(2):
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", **headers}
        app(environ, lambda _status, headers, *_: answered.append(headers))
    (first, to_primary), (second, _) = seen
    assert [[("Vary", "Accept"), ("X-Request-Id", each)] for each in (first, second)] == answered
    assert first == to_primary
    if kept:
        assert first == second == given
    else:
        assert first != second
        assert re.fullmatch("[0-9a-f]{16}", first or "")


def test_an_id_that_a_primary_has_told_is_not_told_twice() -> None:
    """A replica relays its primary's answer, which contains the replica's id already."""
    answered: list[list[tuple[str, str]]] = []

    def devpi(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        start("200 OK", [("X-Request-Id", environ["HTTP_X_REQUEST_ID"])])
        return [b""]

    Traffic(devpi)(
        {"REQUEST_METHOD": "GET", "HTTP_X_REQUEST_ID": "a"}, lambda _, headers, *__: answered.append(headers)
    )
    assert [[("X-Request-Id", "a")]] == answered


def test_a_look_has_no_id_of_the_request_before() -> None:
    """One thread answers both."""
    seen: list[str | None] = []

    def devpi(_environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        seen.append(REQUEST_ID.get())
        start("200 OK", [])
        return [b""]

    app = Traffic(devpi)
    ask(app, HTTP_X_REQUEST_ID="a")
    ask(app, **{PROBE: True})
    assert ["a", None] == seen


def test_nothing_is_lost_between_threads() -> None:
    """Eight at once; waitress has fifty."""
    app = answering([b"12345"])

    def work() -> None:
        for _ in range(500):
            ask(app)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    totals = app.totals().routes["file"]
    assert (0, {"200": 4000}, 20_000, 4000) == (
        totals["in_flight"],
        totals["statuses"],
        totals["bytes"],
        sum(totals["durations"]),
    )


def test_reports_come_on_change_alone_and_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle devpi-server is silent; a busy one reports once a period, and the last report has everything."""
    monkeypatch.setattr(traffic, "REPORT_EVERY", 0.2)
    app = answering([b"x"])
    reports: list[tuple[float, Requests]] = []
    heard = threading.Event()

    def send(report: Requests) -> None:
        reports.append((time.monotonic(), report))
        if report.routes["file"]["statuses"].get("200") == 500:
            heard.set()

    threading.Thread(target=app.report, args=(send,), daemon=True).start()
    assert not heard.wait(0.3)
    assert [] == reports
    for _ in range(500):
        ask(app)
    assert heard.wait(5)
    assert len(reports) <= 3
    assert all(0.19 < later - earlier for (earlier, _), (later, _) in itertools.pairwise(reports))
    said = len(reports)
    heard.clear()
    assert not heard.wait(0.5)
    assert said == len(reports)


def test_the_report_fits_a_packet_whatever_comes() -> None:
    """Every possible status, on every route, after a long life."""
    huge = 10**15
    route = {
        "in_flight": 1000,
        "statuses": {str(code): huge for code in range(100, 600)},
        "durations": [huge] * (len(REQUEST_SECONDS) + 1),
        "seconds": 1e15 / 3,
        "bytes": huge,
        "received": huge,
    }
    report = Requests(dict.fromkeys(ROUTES, route))
    assert report == decode(encode(report))
