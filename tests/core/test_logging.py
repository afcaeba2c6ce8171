"""`sidecar.core.logging`: a record is one line of text or one JSON object, with everything that Python logs."""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import os
import pkgutil
import pty
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sidecar
from sidecar.core import logging as logs
from sidecar.core.request_id import REQUEST_ID
from sidecar.core.settings import LogSettings

ROOT = Path(__file__).resolve().parents[2]

ANY_TEXT = st.text(st.characters())  # surrogates too: so Python reads names that aren't UTF-8


def record(message: str, *arguments: object, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("sidecar.test", level, __file__, 1, message, arguments, None)


def record_of_an_exception(text: str) -> logging.LogRecord:
    try:
        raise RuntimeError(text)
    except RuntimeError:
        return logging.LogRecord("sidecar.test", logging.ERROR, __file__, 1, "it failed", (), sys.exc_info())


def test_text_has_time_level_logger_and_message() -> None:
    """devpi-server's own format."""
    line = logs.TextLines().format(record("%s of %d", "one", 2))
    assert line.endswith(" WARNI [sidecar.test] one of 2")
    datetime.strptime(line.partition(" WARNI")[0], "%Y-%m-%d %H:%M:%S,%f").replace(tzinfo=UTC)


def test_each_line_has_its_own_time() -> None:
    """As in Python's own logs, to the millisecond; also if lines of other seconds come between."""
    records = [record("x") for _ in range(4)]
    for each, at in zip(records, (1.25, 1.5, 86_400.0, 1.999), strict=True):
        each.created, each.msecs = at, at % 1 * 1000
    lines = [logs.TextLines().format(each) for each in records]
    assert [logging.Formatter().formatTime(each) for each in records] == [line[:23] for line in lines]


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
    """The name of an archive's member can't add a line or colour the terminal; printable text stays."""
    line = logs.TextLines().format(record("member %s", text))
    assert line.endswith(f"member {shown}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{'mirror_url': 'http://me:SECRET@127.0.0.1:9/simple/'}", "{'mirror_url': 'http://***@127.0.0.1:9/simple/'}"),
        ("https://SECRET@host and http://me:SECRET@other", "https://***@host and http://***@other"),
        ("http://me:SEC@RET'\"@host/a@b", "http://***@host/a@b"),
        ("http://me:SEC/R?E#T@host/simple", "http://***@host/simple"),
        ("http://me:12/SECRET@host", "http://me:12/SECRET@host"),  # a host, a port, and a path
        ("http://host:3141/root/x@1.0", "http://host:3141/root/x@1.0"),
        ("http://[::1]:3141/root/x@1.0", "http://[::1]:3141/root/x@1.0"),
        ("http://host:80, me@example.com; http://host/a?b=c@d", "http://host:80, me@example.com; http://host/a?b=c@d"),
        ("no URL: me@example.com", "no URL: me@example.com"),
    ],
)
def test_the_user_and_password_of_a_url_are_left_out(text: str, shown: str) -> None:
    """In message, exception, traceback and fields, in both formats."""
    assert shown == logs.redact(text)
    said = logs.TextLines().format(record("%s", text))
    assert said.endswith(f" {shown}")
    failed = record_of_an_exception(text)
    failed.fields = {"a": text, "b": 7}
    told = json.loads(logs.JsonLines("test").format(failed))
    assert (shown, shown, 7) == (told["error.message"], told["a"], told["b"])
    assert f"RuntimeError: {shown}" in told["error.stack_trace"]
    assert f"RuntimeError: {shown}" in logs.TextLines().format(failed)
    assert shown == json.loads(logs.JsonLines("test").format(record("%s", text)))["message"]


def test_a_password_is_left_out_before_a_line_is_cut() -> None:
    """Also if the part that shows that it is a password is cut off."""
    text = "http://me:SECRET" + "x" * 5000 + "@host/"
    for lines in (logs.TextLines(), logs.JsonLines("test")):
        assert "SECRET" not in lines.format(record("%s", text))


@pytest.mark.parametrize("part", ["://a", "://a@", "://a:b", "://a:/", "a:@", "://a:1", "://:" + "a" * 300, "@"])
def test_no_text_makes_leaving_it_out_slow(part: str) -> None:
    """Repetitive text of 20 times a message's length takes less than a CPU second; a quadratic pattern takes many."""
    text = "@" + "://a:" + (part * 80_000)[:80_000]
    began = time.process_time()
    logs.redact(text)
    assert time.process_time() - began < 1


@given(ANY_TEXT)
def test_text_is_always_one_printable_line(text: str) -> None:
    """Whatever the message holds."""
    line = logs.TextLines().format(record("%s", text))
    assert line.isprintable()
    line.encode()


def test_text_shows_an_exception() -> None:
    """The traceback follows the line."""
    line, *traceback = logs.TextLines().format(record_of_an_exception("broken")).splitlines()
    assert line.endswith("it failed")
    assert traceback[0] == "  Traceback (most recent call last):"
    assert traceback[-1] == "  RuntimeError: broken"


@given(ANY_TEXT)
def test_an_exceptions_message_forges_no_line(text: str) -> None:
    """Its notes neither: every line but the first begins with a space."""
    text += "\n2026-11-22 10:20:30,456 INFO  [sidecar] forged"
    made = record_of_an_exception(text)
    made.exc_info[1].add_note(text)  # type: ignore[index, union-attr]
    lines = logs.TextLines().format(made).split("\n")
    assert [] == [line for line in lines[1:] if not line.startswith("  ") or not line.isprintable()]
    assert len([line for line in lines if line.endswith("forged")]) == 2


@given(ANY_TEXT)
def test_json_is_one_line_with_the_message_in_full(text: str) -> None:
    """With any message; in ASCII, so that the encoding doesn't matter."""
    line = logs.JsonLines("test").format(record("%s", text))
    assert line.isascii()
    assert len(line.splitlines()) == 1
    assert json.loads(line)["message"] == text.encode(errors="backslashreplace").decode()


def test_json_has_its_fields() -> None:
    """ECS names; time in RFC 3339, UTC, to the millisecond; no exception fields without an exception."""
    given_record = record("%s", "x")
    fields = json.loads(logs.JsonLines("test").format(given_record))
    at = fields.pop("@timestamp")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", at)
    assert abs(datetime.fromisoformat(at).timestamp() - given_record.created) < 0.001
    assert fields == {
        "log.level": "warning",
        "message": "x",
        "ecs.version": logs.ECS_VERSION,
        "service.name": "test",
        "log.logger": "sidecar.test",
        "process.pid": os.getpid(),
    }


def test_json_has_phase_request_and_fields() -> None:
    """If they are known."""
    lines = logs.JsonLines("test")
    lines.phase = lambda: "ready"
    given_record = record("x")
    given_record.fields = {"sidecar.check": "http"}
    token = REQUEST_ID.set("abc")
    fields = json.loads(lines.format(given_record))
    text = logs.TextLines().format(given_record)
    REQUEST_ID.reset(token)
    assert {"sidecar.phase": "ready", "http.request.id": "abc", "sidecar.check": "http"}.items() <= fields.items()
    assert text.endswith("x (request abc)")


def test_json_has_the_exception() -> None:
    """Type, message and traceback are fields of the one line."""
    line = logs.JsonLines("test").format(record_of_an_exception("two\nlines"))
    assert len(line.splitlines()) == 1
    fields = json.loads(line)
    assert fields["message"] == "it failed"
    assert fields["error.type"] == "RuntimeError"
    assert fields["error.message"] == "two\nlines"
    assert fields["error.stack_trace"].startswith("Traceback")
    assert fields["error.stack_trace"].endswith("RuntimeError: two\nlines")


@pytest.mark.parametrize("lines", [logs.TextLines(), logs.JsonLines("test")])
def test_too_long_a_message_is_cut_with_a_mark(lines: logs.Lines) -> None:
    """Start and end stay, with the number of missing characters."""
    line = lines.format(record("begin%send", "x" * 10_000))
    assert len(line) < logs.MESSAGE_LIMIT + 400
    assert "begin" in line
    assert "end" in line
    assert "6008 characters left out" in line


TOO_LONG = [
    pytest.param(text * 10_000, id=name)
    for name, text in {
        "ascii": "x",
        "cjk": "\u8a9e",
        "emoji": "\U0001f40d",
        "bidi": "\u202e",
        "unassigned": "\U000e0080",
        "unpaired": "\udce9",
        "control": "\x1b",
        "quotes": '"\\',
        "newlines": "\nx",
        "mixed": "a\u8a9e\U0001f40d\n",
    }.items()
]


@pytest.mark.parametrize("text", TOO_LONG)
@pytest.mark.parametrize("lines", [logs.TextLines(), logs.JsonLines("test")])
@pytest.mark.parametrize("traced", [False, True])
def test_no_line_is_torn_by_docker(lines: logs.Lines, text: str, traced: bool) -> None:
    """Docker's and Kubernetes' collectors cut at 16 KiB. The rest of the text fills the room."""
    made = record_of_an_exception(text) if traced else record("%s", "x")
    made.msg, made.args = "begin%send", (text,)
    line = lines.format(made)
    assert (13_000 if traced else 3_900) < len(line.encode()) < 16 * 1024 - 500
    assert "begin" in line
    assert "end" in line
    assert line.count("characters left out") == (1 if not traced else 3 if isinstance(lines, logs.JsonLines) else 2)


@given(ANY_TEXT.map(lambda text: text * 400))
def test_a_cut_line_says_how_much_is_missing(text: str) -> None:
    """With any message: the counted characters are all that is missing, and it is still one object."""
    text = text.encode(errors="backslashreplace").decode()
    line = logs.JsonLines("test").format(record("%s", text))
    told = json.loads(line)["message"]
    if told != text:
        head, missing, tail = re.split(r" \[…(\d+) characters left out…\] ", told)
        assert text.startswith(head)
        assert text.endswith(tail)
        assert len(text) == len(head) + int(missing) + len(tail)
    assert len(line) < logs.MESSAGE_LIMIT + 400


# --- a process that logs ------------------------------------------------------------------------------------------


def run(code: str, style: str = "json", level: str = "INFO", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a Python that configures its log so and executes `code`."""
    begin = "import logging, sys; from sidecar.core import logging as logs"
    program = f"{begin}; logs.configure({style!r}, {level!r}, 'test')\n{code}"
    return subprocess.run(
        [sys.executable, "-W", "default", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        **options,
    )


@pytest.mark.parametrize("style", ["json", "text", "color"])
def test_lines_go_to_stdout_from_the_level_on(style: str) -> None:
    """In the chosen style, without colours if there is no terminal, and nothing on stderr."""
    done = run("log = logging.getLogger('x'); log.info('hidden'); log.warning('shown')", style, "WARNING")
    (line,) = done.stdout.splitlines()
    assert (json.loads(line)["message"] if style == "json" else line.split()[-1]) == "shown"
    assert "\x1b" not in line
    assert done.stderr == ""


@pytest.mark.parametrize(("style", "colored"), [("color", True), ("text", False), ("json", False)])
def test_colours_on_a_terminal(style: str, colored: bool) -> None:
    """If the style has them."""
    ours, theirs = pty.openpty()
    begin = "import logging; from sidecar.core.logging import configure"
    code = f"{begin}; configure({style!r}, 'INFO', 't'); logging.warning('w')"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=theirs, check=True, timeout=20)
    said = os.read(ours, 4096).decode()
    os.close(ours)
    os.close(theirs)
    assert ("\x1b[33mWARNI\x1b[0m" in said) is colored
    assert said.count("\x1b") == (2 if colored else 0)


@pytest.mark.parametrize(
    ("code", "level", "message", "error"),
    [
        ("raise ValueError('v')", "critical", "uncaught exception", "ValueError"),
        (
            "import threading; t = threading.Thread(target=lambda: 1 / 0, name='T'); t.start(); t.join()",
            "error",
            "uncaught exception in thread T",
            "ZeroDivisionError",
        ),
        ("import warnings; warnings.warn('odd\\nthing')", "warning", "UserWarning: odd\nthing (<string>:2)", None),
        (
            "class A:\n    def __del__(self): raise KeyError('k')\n    def __repr__(self): return 'an A'\nA()",
            "error",
            None,
            "KeyError",
        ),
        ("logging.info('%d', 'no number')", "error", "a log line of <string>:2 can't be formatted: TypeError", None),
    ],
)
def test_whatever_python_would_print_is_one_object(
    code: str, level: str, message: str | None, error: str | None
) -> None:
    """Warnings, uncaught exceptions, also of threads and destructors, and lines that can't be formatted."""
    done = run(code)
    (fields,) = map(json.loads, done.stdout.splitlines())
    assert fields["log.level"] == level
    assert message is None or fields["message"] == message
    assert fields.get("error.type") == error
    assert done.stderr == ""


def test_a_full_disk_below_stdout_is_survived() -> None:
    """A log that can't be written stops nothing."""
    with Path("/dev/full").open("w") as full:
        code = "import logging, sys; from sidecar.core import logging as logs; logs.configure('text', 'INFO', 't')\n"
        code += "logging.warning('lost'); sys.stderr.write('lives on')"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=full, stderr=-1, check=False, timeout=20)
    assert (done.returncode, done.stderr) == (0, b"lives on")


@pytest.mark.parametrize(
    ("settings", "style"),
    [(LogSettings(json=True), "json"), (LogSettings(), "color"), (LogSettings(color=False), "text")],
)
def test_the_style_of_settings(settings: LogSettings, style: str) -> None:
    """JSON never has colours."""
    assert settings.style == style


# --- secrets ------------------------------------------------------------------------------------------------------


def test_no_object_shows_its_secrets() -> None:
    """By construction: a field with a secret is not in its object's repr, in whatever line that may appear."""
    told = {"root_password", "secretfile", "token_file"}  # a state or a path in messages; CredentialSettings is below
    checked = set()
    for found in pkgutil.walk_packages(sidecar.__path__, "sidecar."):
        for kind in vars(importlib.import_module(found.name)).values():
            if not dataclasses.is_dataclass(kind) or not isinstance(kind, type):
                continue
            for field in dataclasses.fields(kind):
                if re.search("password|token|secret", field.name) and field.type in SECRET_TYPES:
                    if field.name in told and kind.__name__ != "CredentialSettings":
                        continue
                    assert not field.repr, f"{kind.__name__}.{field.name}"
                    checked.add(f"{kind.__name__}.{field.name}")
    assert {
        "CredentialSettings.root_password",
        "CredentialSettings.admin_token",
        "Initialise.password",
        "Import.password",
        "Serve.probe_secret",
        "Serve.new_root_password",
        "SetRootPassword.password",
    } <= checked


SECRET_TYPES = ("str", "bytes", "str | None", "bytes | None")
