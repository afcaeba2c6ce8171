"""`sidecar status --watch`, in a real terminal and without one, beside a real container."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar.cli.fit import cells
from tests.support import exported
from tests.support.container import PATIENCE, PYTHON, ROOT, Container, wait_for

pytestmark = pytest.mark.slow

SHOW, HIDE, OTHER, BACK = "\x1b[?25h", "\x1b[?25l", "\x1b[?1049h", "\x1b[?1049l"


class Terminal:
    """A command in a terminal, and all that it has written there."""

    def __init__(self, c: Container, *arguments: str, rows: int = 30, columns: int = 100) -> None:
        self.ours, theirs = pty.openpty()
        self.resize(rows, columns)
        env = c.given_environ | {"TERM": "xterm", "PYTHONUTF8": "1"}
        command = [PYTHON, "-m", "sidecar.cli", *arguments]
        self.process = subprocess.Popen(
            command,
            env=env,
            cwd=ROOT,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - so that Ctrl-C is a signal
        )
        os.close(theirs)
        self.said = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self) -> str:
        """All output so far."""
        while select.select([self.ours], [], [], 0)[0]:
            try:
                more = os.read(self.ours, 65536)
            except OSError:  # the other end is closed
                break
            if not more:
                break
            self.said += more.decode(errors="replace")
        return self.said

    def wait(self, words: str, since: int = 0) -> str:
        """Wait until the words appear; return all output."""
        wait_for(lambda: re.search(words, self.read()[since:]), f"{words!r}; it said {self.said[-2000:]!r}")
        return self.said

    def pages(self) -> list[list[str]]:
        """Return the drawn pages, without colours."""
        pages = self.read().partition(HIDE)[2].split("\x1b[H")[1:]
        return [re.sub(r"\x1b\[[0-9;]*[mKJ]", "", page.partition("\x1b[J")[0]).split("\r\n") for page in pages]

    def end(self, key: bytes = b"\x03") -> int:
        """Press Ctrl-C; return the exit code."""
        os.write(self.ours, key)
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < deadline:
            self.read()
            select.select([self.ours], [], [], 0.05)
        self.read()
        return self.process.wait(1)


@contextmanager
def terminal(c: Container, *arguments: str, rows: int = 30, columns: int = 100) -> Iterator[Terminal]:
    made = Terminal(c, *arguments, rows=rows, columns=columns)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        os.close(made.ours)


def assert_restored(said: str) -> None:
    """The cursor is shown, and the terminal's own screen is restored, once."""
    assert said.count(OTHER) == said.count(BACK) == said.count(SHOW) == 1
    assert said.index(HIDE) < said.index(SHOW)
    assert "Traceback" not in said


@pytest.mark.parametrize("arguments", [("status", "--watch"), ("top",)])
def test_a_ready_container(ready: Container, arguments: tuple[str, ...]) -> None:
    """Phase and checks; Ctrl-C restores the terminal, and leaves the last view there."""
    with terminal(ready, *arguments) as shown:
        shown.wait("ready: ready since")
        shown.wait("pass.{0,20} http")
        assert shown.end() == 130
        assert_restored(shown.said)
        after = shown.said.partition(BACK)[2]
        assert "ready: ready since" in after
        assert "Ctrl-C to exit" not in after


def test_a_new_size_is_drawn_at_once(ready: Container) -> None:
    """No line is wider, and no page longer than the terminal."""
    with terminal(ready, "status", "--watch", rows=30, columns=100) as shown:
        shown.wait("Ctrl-C to exit")
        before = len(shown.pages())
        shown.resize(4, 30)
        wait_for(lambda: len(shown.pages()) > before + 2, "further pages")
        last = shown.pages()[-1]
        assert len(last) == 4
        assert max(map(len, last)) <= 30
        assert shown.end() == 130


ARCHIVE = "сохранённая-копия-é-日本語のアーカイブ-バックアップ-한국어-백업-2026-11-30-of-the-great-server.tar.gz"


def test_every_width(container: Callable[..., Container]) -> None:
    """A failed import, its name in several alphabets: nothing is cut or too wide; without a terminal nothing wraps."""
    c = container()
    c.init_dir.mkdir(exist_ok=True)
    (c.init_dir / unicodedata.normalize("NFD", ARCHIVE)).write_bytes(b"\x1f\x8b\x08\x00 no archive" * 40)
    c.start().wait_phase("failed")
    error = c.status()["import"]["error"]
    whole = c.sidecar("status").stdout
    said = f"  the import failed\n    archive: {error['archive']}\n    reason: {error['reason']}\n"
    assert said in whole
    assert 1 == whole.count(error["reason"]) == whole.count(error["hint"])
    assert not re.search("rotate|claim|check ", whole)
    for columns in (100, 80, 60, 40):
        with terminal(c, "status", rows=50, columns=columns) as shown:
            wait_for(lambda: shown.read() and shown.process.poll() is not None, "its exit")
            assert shown.process.returncode == 1
            assert_fits(shown.read().split("\r\n"), said, columns)
        with terminal(c, "top", rows=50, columns=columns) as shown:
            shown.wait("UTC")
            wait_for(lambda: len(shown.pages()) > 1, "a whole page")
            assert_fits(shown.pages()[0], said, columns)
            assert shown.end() == 130


def assert_fits(lines: list[str], said: str, columns: int) -> None:
    """No line is wider, and all text is there; it is wrapped if necessary."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert [] == [line for line in lines if cells(line) > columns]
    text = "".join(re.sub(r"\s", "", line) for line in lines)
    assert re.sub(r"\s", "", said) in text
    assert "tostartemptyinstead:removethearchivesfromDEVPI_INIT_DIRandrestartthecontainer" in text


@pytest.mark.parametrize("columns", [100, 80, 60, 40])
@pytest.mark.parametrize("command", ["status", "top"])
def test_every_width_of_a_ready_one(ready: Container, command: str, columns: int) -> None:
    """The same when all is well."""
    with terminal(ready, command, rows=50, columns=columns) as shown:
        shown.wait("ready: ready")
        if command == "top":
            wait_for(lambda: len(shown.pages()) > 1, "a whole page")
            lines = shown.pages()[0]
            assert shown.end() == 130
        else:
            wait_for(lambda: shown.read() and shown.process.poll() is not None, "its exit")
            lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.read()).split("\r\n")
        assert [] == [line for line in lines if cells(line) > columns]
        assert any("root's password" in line for line in lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back(ready: Container, number: signal.Signals) -> None:
    """As with Ctrl-C."""
    with terminal(ready, "status", "--watch") as shown:
        shown.wait("Ctrl-C to exit")
        shown.process.send_signal(number)
        wait_for(lambda: shown.read() and shown.process.poll() is not None, "its exit")
        assert shown.process.returncode == 128 + number
        assert_restored(shown.read())


def test_an_import_then_a_restart(container: Callable[..., Container], tmp_path: Path) -> None:
    """The bar moves; a lost sidecar is reported, and polled until it is back."""
    c = container(env={"SIDECAR_PORT": "0"})
    exported.write(c.init_dir / "export", projects=1500)
    c.start().wait_listening()
    with terminal(c, "status", "--watch") as shown:
        shown.wait("ready: ready since")
        bars = [line for page in shown.pages() for line in page if re.match("  files  ", line)]
        shares = [int(re.search(r"(\d+)%", bar)[1]) for bar in bars]  # type: ignore[index]
        assert len(set(shares)) > 1, bars
        assert shares == sorted(shares)
        assert all(len(bar) <= 100 for bar in bars)
        assert any("█" in bar for bar in bars)
        at = len(shown.said)
        assert c.stop() == 0
        shown.wait("no sidecar: ", at)
        c.start().wait_ready()
        shown.wait(r"ready: ready since[\s\S]*restarted at ", at)
        assert shown.end() == 130
        assert_restored(shown.said)


def test_without_a_terminal_a_line_a_change(container: Callable[..., Container], tmp_path: Path) -> None:
    """Each once, with its time; no control character."""
    c = container().start().wait_ready()
    out = tmp_path / "out"
    command = [PYTHON, "-m", "sidecar.cli", "status", "--watch"]
    with out.open("wb") as file:
        process = subprocess.Popen(command, env=c.given_environ, cwd=ROOT, stdout=file, stderr=file)
    try:
        wait_for(lambda: "root's password: claimable" in out.read_text(), "the first lines")
        c.claim()
        wait_for(lambda: "root's password: claimed" in out.read_text(), "the claim")
        assert c.stop() == 0
        wait_for(lambda: "no sidecar: " in out.read_text(), "the stop")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
    finally:
        process.kill()
        process.wait()
    lines = out.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \S", line) and line.isprintable() for line in lines)
    said = [line.partition(" ")[2] for line in lines]
    assert said[0] == "ready: ready"
    assert 1 == said.count("check http: pass") == said.count("root's password: claimed")
