"""What devpi-server or a plugin prints becomes log lines."""

from __future__ import annotations

import logging
import threading
import traceback

import pytest

from sidecar.devpi.output import Printed


@pytest.fixture
def stream(caplog: pytest.LogCaptureFixture) -> Printed:
    """A stream for what is printed to stderr."""
    caplog.set_level(logging.INFO)
    return Printed(logging.getLogger("devpi.stderr"), logging.WARNING)


def test_a_line_is_a_record(stream: Printed, caplog: pytest.LogCaptureFixture) -> None:
    """However it was written; empty ones are none; `fatal:` is an error."""
    print("one", "two", file=stream, flush=True)
    stream.write("three\n\nfo")
    stream.flush()
    stream.write("ur\n")
    print("fatal: five", file=stream)
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "one two"),
        ("WARNING", "three"),
        ("WARNING", "four"),
        ("ERROR", "fatal: five"),
    ]


def test_a_traceback_is_one_record(stream: Printed, caplog: pytest.LogCaptureFixture) -> None:
    """The exception is the message, the rest of it the stack."""
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        traceback.print_exc(file=stream)
        expected = traceback.format_exc().rstrip()
    print("after", file=stream)
    trace, after = caplog.records
    assert (trace.levelname, trace.getMessage()) == ("ERROR", "RuntimeError: broken")
    assert expected == trace.stack  # type: ignore[attr-defined]
    assert after.getMessage() == "after"


def test_threads_do_not_mix(stream: Printed, caplog: pytest.LogCaptureFixture) -> None:
    """Halves of lines belong to the thread that wrote them."""
    stream.write("mine, ")
    other = threading.Thread(target=lambda: stream.write("theirs\n"))
    other.start()
    other.join()
    stream.write("still mine\n")
    assert [r.getMessage() for r in caplog.records] == ["theirs", "mine, still mine"]


def test_a_line_without_end_is_logged_in_parts(stream: Printed, caplog: pytest.LogCaptureFixture) -> None:
    """It doesn't fill the memory."""
    for _ in range(100):
        stream.write("x" * 10_000)
    assert sum(len(r.getMessage()) for r in caplog.records) > 900_000
