"""`sidecar.worker.repeats`: equal lines of a background thread are logged once in 10 minutes, all others always."""

from __future__ import annotations

import logging

import pytest

from sidecar.worker import repeats
from sidecar.worker.repeats import LOG_EVERY, NowAndThen


def line(text: str, *args: object, error: Exception | None = None) -> logging.LogRecord:
    """Return a record as devpi makes it: the thread's prefix is part of the message."""
    info = None if error is None else (type(error), error, None)
    return logging.LogRecord("root", logging.ERROR, "x", 1, text, args, info)


def test_equal_lines_of_background_threads() -> None:
    """Equal in message and exception; figures count, because they tell one file or serial from another."""
    once = NowAndThen()
    for mark in ("[FREP] ", "[REP] ", "[NOTI] "):
        assert [True, False] == [once.shows(line(mark + "error downloading %s", "a")) for _ in range(2)]
        assert once.shows(line(mark + "error downloading %s", "b"))
        assert once.shows(line(mark + "error downloading %s", "a", error=ValueError("x")))
    assert [True, True] == [once.shows(line("[req7] GET %s", "/")) for _ in range(2)]


def test_errors_of_other_places() -> None:
    """Two equal errors, raised in two places, are different."""
    once = NowAndThen()

    def record(number: int) -> logging.LogRecord:
        try:
            if number:
                raise AssertionError
            raise AssertionError
        except AssertionError as error:
            info = (type(error), error, error.__traceback__)
            return logging.LogRecord("root", logging.ERROR, "x", 1, "[NOTI] Unhandled exception", (), info)

    assert [True, True, False, False] == [once.shows(record(number)) for number in (0, 1, 0, 1)]


def test_wrong_arguments_raise_nothing() -> None:
    """A filter's exception would be raised where the line is logged; a handler's would not."""
    once = NowAndThen()
    assert [True, False] == [once.shows(line("[NOTI] %d events", "no number")) for _ in range(2)]


def test_some_time_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is logged again."""
    at = 0.0
    monkeypatch.setattr(repeats.time, "monotonic", lambda: at)
    once = NowAndThen()
    assert once.shows(line("[REP] no primary"))
    at = LOG_EVERY - 1
    assert not once.shows(line("[REP] no primary"))
    at = LOG_EVERY
    assert once.shows(line("[REP] no primary"))


def test_every_handler_gets_the_line() -> None:
    """With several handlers, each asks for the same record."""
    once, record = NowAndThen(), line("[REP] no primary")
    assert [True, True] == [once.shows(record), once.shows(record)]


def test_memory_is_bounded() -> None:
    """Many different lines push out the oldest."""
    once = NowAndThen()
    for number in range(repeats._REMEMBERED + 10):
        once.shows(line("[FREP] retrieving %d", number))
    assert len(once._seen) == repeats._REMEMBERED
    assert once.shows(line("[FREP] retrieving %d", 0))
