"""Text that devpi-server or a plugin prints is logged."""

from __future__ import annotations

import logging
import threading
import traceback

import pytest

from sidecar.worker.patches.output import Printed


@pytest.fixture
def stream(caplog: pytest.LogCaptureFixture) -> Printed:
    """A stream in place of stderr."""
    caplog.set_level(logging.INFO)
    return Printed(logging.getLogger("devpi.stderr"), logging.WARNING)


def test_a_line_is_a_record(stream: Printed, caplog: pytest.LogCaptureFixture) -> None:
    """However it is written; empty lines are skipped; `fatal:` is an error."""
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
    """The exception is the message, the whole text the stack."""
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


def test_a_chain_of_tracebacks_is_a_record_each(stream: Printed, caplog: pytest.LogCaptureFixture) -> None:
    """In order, with the sentence between them; nothing is lost."""
    try:
        try:
            raise ValueError("first")
        except ValueError as error:
            raise RuntimeError("second") from error
    except RuntimeError:
        traceback.print_exc(file=stream)
    link = "The above exception was the direct cause of the following exception:"
    assert ["ValueError: first", link, "RuntimeError: second"] == [r.getMessage() for r in caplog.records]


def test_a_traceback_is_logged_with_its_exception(stream: Printed, caplog: pytest.LogCaptureFixture) -> None:
    """At once, for the process may end now; one that breaks off ends with the next line that is not indented."""
    stream.write("Traceback (most recent call last):\n  File")
    stream.flush()
    assert [] == caplog.records
    stream.write(' "x", line 1\nValueError: mine\n')
    assert ["ValueError: mine"] == [r.getMessage() for r in caplog.records]
    print("Traceback (most recent call last):\n  File\n\nafter", file=stream)
    assert ["ValueError: mine", "Traceback (most recent call last):", "after"] == [
        r.getMessage() for r in caplog.records
    ]


def test_a_group_of_exceptions_is_logged_line_by_line(stream: Printed, caplog: pytest.LogCaptureFixture) -> None:
    """Its indentation has no end that shows, so each line is a record."""
    group = ExceptionGroup("outer", [TypeError("deep"), OSError("last")])
    traceback.print_exception(group, file=stream)
    assert "".join(traceback.format_exception(group)).splitlines() == [r.getMessage() for r in caplog.records]


def test_a_flush_logs_a_traceback_without_an_exception(stream: Printed, caplog: pytest.LogCaptureFixture) -> None:
    """Its thread may print no more; the header alone waits, because a flush may come between it and the frames."""
    stream.write("Traceback (most recent call last):\n")
    stream.flush()
    assert [] == caplog.messages
    stream.write('  File "x.py", line 1, in f\n')
    stream.flush()
    stream.write("after it\n")
    assert ['File "x.py", line 1, in f', "after it"] == caplog.messages
    assert "Traceback" in caplog.records[0].stack  # type: ignore[attr-defined]


def test_a_traceback_without_end_is_logged_in_parts(stream: Printed, caplog: pytest.LogCaptureFixture) -> None:
    """Memory does not grow with it."""
    stream.write("Traceback (most recent call last):\n")
    for _ in range(3):
        stream.write(f"  {'x' * 40_000}\n")
    assert 2 == len(caplog.messages)


def test_threads_do_not_mix(stream: Printed, caplog: pytest.LogCaptureFixture) -> None:
    """A partial line belongs to the thread that wrote it."""
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
