"""What devpi-server or a plugin prints becomes log lines."""

from __future__ import annotations

import logging
import threading
import time
import traceback

import pytest

from sidecar.core.request_id import REQUEST_ID
from sidecar.worker.patches.output import Printed


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


def chained(how: str) -> BaseException:
    """An exception as `how` says."""
    try:
        try:
            raise ValueError("first")
        except ValueError as error:
            match how:
                case "from":
                    raise RuntimeError("second") from error
                case "during":
                    raise RuntimeError("second")  # noqa: B904 - that is what is tested
                case "thrice":
                    try:
                        raise KeyError("between") from error
                    except KeyError:
                        raise RuntimeError("second")  # noqa: B904
                case "group":
                    inner = ExceptionGroup("inner", [TypeError("deep\n  | deeper"), error])
                    raise ExceptionGroup("outer", [inner, OSError("last")]) from None
                case "group from":
                    raise ExceptionGroup("outer", [OSError("one"), OSError("two")]) from error
                case _:
                    try:
                        raise ExceptionGroup("outer", [error])
                    except ExceptionGroup as group:
                        raise RuntimeError("second") from group
    except Exception as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("from", "RuntimeError: second"),
        ("during", "RuntimeError: second"),
        ("thrice", "RuntimeError: second"),
        ("group", "ExceptionGroup: outer (2 sub-exceptions)"),
        ("group from", "ExceptionGroup: outer (2 sub-exceptions)"),
        ("from a group", "RuntimeError: second"),
    ],
)
def test_a_traceback_with_its_causes_is_one_record(
    stream: Printed, caplog: pytest.LogCaptureFixture, how: str, said: str
) -> None:
    """Of two in a row each is one, and the line behind them is what it was."""
    error = chained(how)
    for _ in range(2):
        traceback.print_exception(error, file=stream)
    print("after", file=stream)
    first, second, after = caplog.records
    expected = "".join(traceback.format_exception(error)).rstrip()
    assert [(said, expected)] * 2 == [(r.getMessage(), r.stack) for r in (first, second)]  # type: ignore[attr-defined]
    assert after.getMessage() == "after"


@pytest.mark.parametrize("how", ["from", "group"])
def test_a_traceback_behind_which_nothing_comes_is_logged_soon(
    stream: Printed, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Once, with the id of the request in which it was printed; then nothing is left that waits."""
    error = chained(how)
    ids: list[str | None] = []
    threads = threading.active_count()
    caplog.handler.addFilter(lambda _: ids.append(REQUEST_ID.get()) is None)
    token = REQUEST_ID.set("a")
    traceback.print_exception(error, file=stream)
    REQUEST_ID.reset(token)
    assert [] == caplog.records
    deadline = time.monotonic() + 10
    while not caplog.records or threading.active_count() > threads:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stream.flush()
    print("after", file=stream)
    assert 2 == len(caplog.records)
    assert ["a", None] == ids


def test_a_flush_logs_what_has_ended_and_leaves_no_thread(stream: Printed, caplog: pytest.LogCaptureFixture) -> None:
    """As before the process ends, or forks; of another thread's, too. What is only half there waits."""
    printing = threading.Thread(target=traceback.print_exception, args=(chained("from"),), kwargs={"file": stream})
    printing.start()
    printing.join()
    stream.write("Traceback (most recent call last):\n  File")
    before = threading.active_count()
    stream.flush()
    assert ["RuntimeError: second"] == [r.getMessage() for r in caplog.records]
    assert before - 1 == threading.active_count()
    stream.write(' "x", line 1\nValueError: mine\n')
    stream.flush()
    assert ["RuntimeError: second", "ValueError: mine"] == [r.getMessage() for r in caplog.records]


def test_a_link_with_nothing_behind_it_hides_no_line(stream: Printed, caplog: pytest.LogCaptureFixture) -> None:
    """Nor do blank lines, and a group that breaks off."""
    link = "During handling of the above exception, another exception occurred:"
    print(f"Traceback (most recent call last):\n  File\nValueError: a\n\n{link}\n\nnot one", file=stream)
    print("  + Exception Group Traceback (most recent call last):\n  | File\nafter", file=stream)
    assert ["ValueError: a", "not one", "File", "after"] == [r.getMessage() for r in caplog.records]


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
