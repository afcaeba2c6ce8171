"""Request ids, and the access log."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest

from tests.web.conftest import Site


@pytest.fixture
def access_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Enable the access log."""
    with caplog.at_level(logging.INFO, "sidecar.access"):
        yield caplog


async def test_every_answer_has_an_id_of_its_own(site: Site) -> None:
    """Also errors, and on a keep-alive connection."""
    ids = [(await site.get(path)).headers["X-Request-ID"] for path in ("/livez", "/livez", "/readyz", "/nowhere")]
    assert all(re.fullmatch("[0-9a-f]{16}", each) for each in ids)
    assert len(set(ids)) == 4


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("abc-123", True),
        ("1-67891233-abcdef012345678912345678", True),
        ("x" * 129, False),
        ("a b", False),
        ("é", False),
    ],
)
async def test_a_sane_id_is_taken_over(site: Site, given: str, taken: bool) -> None:
    """In the answer and in a problem's body; an id that is unsafe in a log is replaced."""
    answer = await site.get("/nowhere", **{"X-Request-ID": given})
    assert answer.status == 404
    assert (answer.headers["X-Request-ID"] == given) is taken
    assert answer.json["request_id"] == answer.headers["X-Request-ID"]


async def test_log_lines_have_the_id(site: Site, access_log: pytest.LogCaptureFixture) -> None:
    """Only the id of their own request."""
    from sidecar.core.request_id import REQUEST_ID

    seen: list[tuple[str, str | None]] = []

    class Ids(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append((record.name, REQUEST_ID.get()))

    handler = Ids()
    logging.getLogger().addHandler(handler)
    try:
        await site.get("/bootstrap", Authorization="Bearer wrong-token-0123456789", **{"X-Request-ID": "one"})
        await site.get("/livez", **{"X-Request-ID": "two"})
    finally:
        logging.getLogger().removeHandler(handler)
    assert [each for each in seen if each[0] in ("sidecar.web", "sidecar.access")] == [
        ("sidecar.web", "one"),
        ("sidecar.access", "one"),
        ("sidecar.access", "two"),
    ]


async def test_an_access_line(site: Site, access_log: pytest.LogCaptureFixture) -> None:
    """Method, route, status, duration and peer; the route instead of the path, which the client chooses."""
    await site.get("/readyz/http")
    await site.get("/forged%0aline")
    known, unknown = (record for record in access_log.records if record.name == "sidecar.access")
    fields = known.fields  # type: ignore[attr-defined]
    duration = fields.pop("event.duration")
    assert 0 < duration < 5e9
    assert fields == {
        "http.request.method": "GET",
        "sidecar.route": "/readyz/{check}",
        "http.response.status_code": 503,
        "client.ip": "127.0.0.1",
    }
    assert re.fullmatch(r"GET /readyz/\{check\}: 503 in \d+\.\d ms, from 127\.0\.0\.1", known.getMessage())
    assert "forged" not in unknown.getMessage()
    assert unknown.getMessage().startswith("GET (none): 404 ")


async def test_no_access_lines_unless_asked_for(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """They come every second."""
    with caplog.at_level(logging.WARNING, "sidecar.access"):
        await site.get("/livez")
    assert [] == [record for record in caplog.records if record.name == "sidecar.access"]
