"""The sidecar's own looks stay out of devpi's log, and nobody else's requests do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
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


def test_the_header_is_the_environ_key() -> None:
    """What the client sends is what the child looks for."""
    assert "HTTP_" + HEADER.upper().replace("-", "_") == ENVIRON_KEY
