"""The sidecar's own looks stay out of devpi's log, and nobody else's requests do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from sidecar.devpi.quiet import HEADER, QuietLooks

ENVIRON_KEY = "HTTP_X_DEVPI_SIDECAR_LOOK"


@pytest.mark.parametrize(
    ("said", "lines"),
    [("the secret", ["worse"]), ("a guess", ["GET", "worse"]), ("§", ["GET", "worse"]), (None, ["GET", "worse"])],
)
def test_only_our_own_requests_are_quiet(said: str | None, lines: list[str]) -> None:
    """INFO lines of a request with this run's secret are dropped; warnings never are."""
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    root = logging.getLogger()
    root.addHandler(handler)
    before = root.level
    root.setLevel(logging.INFO)

    def devpi(environ: dict[str, Any], _start: Callable[..., Any]) -> Iterable[bytes]:
        assert ENVIRON_KEY not in environ  # devpi never sees it
        logging.getLogger("devpi").info("GET")
        logging.getLogger("devpi").warning("worse")
        return []

    try:
        app = QuietLooks(devpi, "the secret")
        app({} if said is None else {ENVIRON_KEY: said}, lambda *_: None)
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        for each in root.handlers:
            each.filters[:] = [f for f in each.filters if getattr(f, "__self__", None) is not app]
    assert records == lines


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What the log has, by a handler of its own."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    root = logging.getLogger()
    before = root.handlers[:]
    root.handlers[:] = [handler]
    yield said
    root.handlers[:] = before


def test_an_error_of_our_own_requests_is_logged_once(lines: list[str]) -> None:
    """Until one succeeds, for each path, whatever its figures; another error is logged, and so are those of others."""
    errors: list[Exception | None] = []

    def devpi(_environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if (error := errors.pop(0)) is None:
            start("200 OK", [])
        else:
            logging.getLogger("waitress").error("[req%d] %s", len(errors), "failed", exc_info=error)
        return []

    app = QuietLooks(devpi, "secret")

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
    """What the client sends is what the child looks for."""
    assert "HTTP_" + HEADER.upper().replace("-", "_") == ENVIRON_KEY
