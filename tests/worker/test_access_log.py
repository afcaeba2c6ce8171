"""The sidecar's own requests stay out of devpi's log; all other requests are logged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from sidecar.devpi.protocol import PROBE_HEADER
from sidecar.worker.access_log import AccessLogFilter

ENVIRON_KEY = "HTTP_X_DEVPI_SIDECAR_PROBE"


@pytest.fixture
def lines() -> list[str]:
    """Return the INFO lines of the log, from a handler of its own: other tests' filters would see the records first."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    return said


@pytest.mark.parametrize(
    ("said", "shown"),
    [("the secret", ["worse"]), ("a guess", ["GET", "worse"]), ("§", ["GET", "worse"]), (None, ["GET", "worse"])],
)
def test_only_our_own_requests_are_quiet(lines: list[str], said: str | None, shown: list[str]) -> None:
    """INFO lines of a request with this run's secret are dropped; warnings never are."""

    def devpi(environ: dict[str, Any], _start: Callable[..., Any]) -> Iterable[bytes]:
        assert ENVIRON_KEY not in environ  # devpi never sees it
        logging.getLogger("devpi").info("GET")
        logging.getLogger("devpi").warning("worse")
        return []

    AccessLogFilter(devpi, "the secret")({} if said is None else {ENVIRON_KEY: said}, lambda *_: None)
    assert lines == shown


def test_an_error_of_our_own_requests_is_logged_once(lines: list[str]) -> None:
    """Until one succeeds, by path, ignoring figures; other errors and other clients' requests are logged."""
    errors: list[Exception | None] = []

    def devpi(_environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if (error := errors.pop(0)) is None:
            start("200 OK", [])
        else:
            logging.getLogger("waitress").error("[req%d] %s", len(errors), "failed", exc_info=error)
        return []

    app = AccessLogFilter(devpi, "secret")

    def ask(error: Exception | None, path: str = "/+status", *, look: bool = True) -> int:
        lines.clear()
        errors.append(error)
        app({"PATH_INFO": path} | ({ENVIRON_KEY: "secret"} if look else {}), lambda *_: None)
        return len(lines)

    assert [1, 0, 0] == [ask(ValueError(number)) for number in range(3)]
    assert [1, 0] == [ask(KeyError("x")) for _ in range(2)]
    assert [1, 0] == [ask(ValueError(1), "/+api") for _ in range(2)]
    assert [1, 1] == [ask(ValueError(1), look=False) for _ in range(2)]
    assert [0, 1, 0] == [ask(None), ask(ValueError(1)), ask(ValueError(2))]


def test_the_header_is_the_environ_key() -> None:
    """The client sends the header that the worker reads."""
    assert "HTTP_" + PROBE_HEADER.upper().replace("-", "_") == ENVIRON_KEY
