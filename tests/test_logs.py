"""`sidecar.logs`: a record is one line of text for people, or one JSON object for collectors."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import logs
from sidecar.settings import LogSettings

ANY_TEXT = st.text(st.characters())  # surrogates too: so Python reads names that aren't UTF-8


def record(message: str, *arguments: object, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("sidecar.test", level, __file__, 1, message, arguments, None)


def record_of_an_exception(text: str) -> logging.LogRecord:
    try:
        raise RuntimeError(text)
    except RuntimeError:
        return logging.LogRecord("sidecar.test", logging.ERROR, __file__, 1, "it failed", (), sys.exc_info())


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, which is put back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_text_has_time_level_logger_and_message() -> None:
    """devpi-server's own shape."""
    line = logs.TextFormatter().format(record("%s of %d", "one", 2))
    assert line.endswith(" WARNI [sidecar.test] one of 2")
    datetime.strptime(line.partition(" WARNI")[0], "%Y-%m-%d %H:%M:%S,%f").replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("nul\0", r"nul\x00"),
        ("line\u2028separator\x85", r"line\u2028separator\x85"),
        ("rtl\u202eoverride", r"rtl\u202eoverride"),
        ("caf\udce9", r"caf\udce9"),
        ("café 'quoted' \\", "café 'quoted' \\"),
    ],
)
def test_text_escapes_control_characters(text: str, shown: str) -> None:
    """An archive's member can't write a line of its own, or colour the terminal; what is printable stays."""
    line = logs.TextFormatter().format(record("member %s", text))
    assert line.endswith(f"member {shown}")


@given(ANY_TEXT)
def test_text_is_always_one_printable_line(text: str) -> None:
    """Whatever the message holds."""
    line = logs.TextFormatter().format(record("%s", text))
    assert line.isprintable()
    line.encode()


def test_text_shows_an_exception() -> None:
    """The traceback follows the line."""
    line, *traceback = logs.TextFormatter().format(record_of_an_exception("broken")).splitlines()
    assert line.endswith("it failed")
    assert traceback[-1] == "RuntimeError: broken"


@given(ANY_TEXT)
def test_json_is_one_line_with_the_message_in_full(text: str) -> None:
    """Whatever the message holds; ASCII alone, so no encoding is in the way."""
    line = logs.JsonFormatter().format(record("%s", text))
    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert json.loads(line)["message"] == text


def test_json_has_its_fields() -> None:
    """Time in RFC 3339 and UTC, level, logger, message; no exception where there is none."""
    given_record = record("%s", "x")
    fields = json.loads(logs.JsonFormatter().format(given_record))
    at = datetime.fromisoformat(fields.pop("time"))
    assert at.utcoffset() is not None
    assert abs(at.timestamp() - given_record.created) < 0.001
    assert fields == {"level": "warning", "logger": "sidecar.test", "message": "x"}


def test_json_has_the_exception() -> None:
    """The traceback is in a field, so that it stays one line."""
    line = logs.JsonFormatter().format(record_of_an_exception("two\nlines"))
    assert len(line.splitlines()) == 1
    fields = json.loads(line)
    assert fields["message"] == "it failed"
    assert fields["exception"].startswith("Traceback")
    assert fields["exception"].endswith("RuntimeError: two\nlines")


@pytest.mark.parametrize("as_json", [False, True])
def test_configured_logs_go_to_stdout_from_the_level_on(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    """In the format that was chosen, and nothing to stderr."""
    logs.configure(LogSettings(json=as_json, level="WARNING"))
    logging.getLogger("sidecar.test").info("hidden")
    logging.getLogger("sidecar.test").warning("shown")
    out, err = capsys.readouterr()
    (line,) = out.splitlines()
    assert (json.loads(line)["message"] if as_json else line.split()[-1]) == "shown"
    assert err == ""
    assert root_logger.level == logging.WARNING
