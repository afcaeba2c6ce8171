"""`sidecar status --watch`: a live status in a terminal; without a terminal, one line for each change."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import FrameType
from typing import NoReturn

from sidecar.cli.fit import Line, cells, fit
from sidecar.cli.render import (
    Fields,
    archives,
    failure,
    headline,
    mirrors,
    notices,
    phases,
    progress,
    replication,
    root_password,
    telling,
    unusable_passwords,
    versions,
)
from sidecar.core.check import NOT_YET
from sidecar.core.text import duration, size, value

INTERVAL = 0.5
"""Seconds between two looks."""
_WIDEST_BAR, _SHORTEST_BAR = 40, 5
_COUNTS = ("extracted", "users", "indexes", "projects", "files", "bytes")
_BYTES = frozenset({"extracted", "bytes"})
_COLORS = {"pass": "32", "pending": "2", "warn": "33", "fail": "31"}


@dataclass(frozen=True, slots=True)
class View:
    """The sidecar's answer to one look, or why there is none."""

    ready: bool = False
    status: Fields = field(default_factory=lambda: Fields(None))
    checks: tuple[Fields, ...] = ()
    gone: str | None = None
    """Why there is no answer."""

    @property
    def started(self) -> str:
        """Return when this sidecar started, which identifies a restart."""
        phases = self.status.list("phases")
        return phases[0].text("since", 50) if phases else ""


def watch(look: Callable[[], View], *, color: bool) -> NoReturn:
    """Look and show until interrupted. Raises KeyboardInterrupt, and SystemExit on SIGTERM or SIGHUP."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    if sys.stdout.isatty():
        _on_a_terminal(look, color=color)
    _line_by_line(look)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


# --- on a terminal ------------------------------------------------------------------------------------------------


def _on_a_terminal(look: Callable[[], View], *, color: bool) -> NoReturn:
    restarts = _Restarts()
    lines: list[str] = []
    try:
        with _screen():
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
            while True:
                view = look()
                note = restarts.note(view)
                columns, rows = _size()
                lines = list(_page(view, note, columns, color=color))
                _draw(lines, rows)
                signal.sigtimedwait({signal.SIGWINCH}, INTERVAL)  # redraw at once after a resize
    finally:
        sys.stdout.write("\n".join(lines[:-1]) + "\n")  # the last status stays, without the line about Ctrl-C
        sys.stdout.flush()


@contextmanager
def _screen() -> Iterator[None]:
    """Use the terminal's alternate screen, without a cursor, and restore the terminal in any case."""
    sys.stdout.write("\x1b[?1049h\x1b[?25l")
    try:
        yield
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()


def _size() -> tuple[int, int]:
    """Return columns and rows; at first, `docker exec` reports 0 of both."""
    size = os.get_terminal_size(sys.stdout.fileno())
    return size.columns or 80, size.lines or 24


def _draw(lines: list[str], rows: int) -> None:
    """Draw over the previous lines, without flicker; lines that don't fit are counted."""
    if len(lines) > rows:
        lines = [*lines[: rows - 1], f"  … {len(lines) - rows + 1} more lines"]
    sys.stdout.write("\x1b[H" + "\n".join(f"{line}\x1b[0m\x1b[K" for line in lines) + "\x1b[J")
    sys.stdout.flush()


def _page(view: View, note: str, columns: int, *, color: bool) -> Iterator[str]:
    """Yield the lines, the most important first, none wider than `columns`."""

    def fitted(line: str, code: str = "") -> Iterator[str]:
        for part in fit(line, columns):
            yield f"\x1b[{code}m{part}\x1b[0m" if code and color else part

    at = datetime.now(UTC)
    if view.gone is not None:
        yield from fitted(f"no sidecar: {view.gone}", "31")
        yield from fitted("  waiting for the sidecar to start again")
    else:
        yield from fitted(headline(view.status, ready=view.ready), "1;32" if view.ready else "1;33")
        for line in _details(view, columns, at, color=color):
            yield from fitted(line)
    if note:
        yield from fitted(f"  {note}", "33")
    yield from fitted(Line(f"  {at:%H:%M:%S} UTC, Ctrl-C to exit", f"  {at:%H:%M:%S} UTC"), "2")


def _details(view: View, columns: int, at: datetime, *, color: bool) -> Iterator[str]:
    imported = view.status.inner("import")
    yield from failure(view.status)
    yield from phases(view.status, at)
    yield from _bars(imported, columns) if _moves(imported) else progress(imported)
    for check in telling(view.status, list(view.checks)):
        yield from _check(check, columns, color=color)
    yield from notices(view.status)
    yield from replication(view.status.inner("devpi"), at)
    yield from root_password(view.status)
    yield from unusable_passwords(view.status)
    yield from mirrors(view.status)
    yield from archives(imported)
    yield from versions(view.status)


def _check(check: Fields, columns: int, *, color: bool) -> Iterator[str]:
    """Yield a check's row, with the reason in the same line or, if too wide, below. The value is dropped first."""
    verdict, unit = check.text("status", 20), check.text("unit", 30)
    measured = value(check.number("value"), unit) + (" free" if unit == "bytes" else "")
    shown = f"{verdict:<7}"
    if color:
        shown = f"\x1b[{_COLORS.get(verdict, '0')}m{shown}\x1b[0m"
    name, reason = f"  {shown} {check.text('name', 50):<14}", check.text("reason", 500)
    if reason == NOT_YET:
        reason = ""  # same as `pending`
    row = f"{name} {measured:>12}"
    if cells(f"{row}  {reason}") <= columns or not reason:
        yield Line(f"{row}  {reason}".rstrip(), name.rstrip())
    else:
        yield Line(row.rstrip(), name.rstrip())
        yield f"    {reason}"


def _moves(imported: Fields) -> bool:
    """Whether the import is making progress."""
    return imported.text("state", 30) in ("extracting", "loading")


def _bars(status: Fields, columns: int) -> Iterator[str]:
    """Yield a progress bar for each count of a running import; in a narrow terminal bars, then counts, are dropped."""
    full, empty = ("█", "░") if (sys.stdout.encoding or "").lower().startswith("utf") else ("#", ".")
    counts = []
    for name in _COUNTS:
        done, total = status.inner(name).number("done"), status.inner(name).number("total")
        if done is not None and total:
            word = size if name in _BYTES else "{:,.0f}".format
            counts.append((name, min(1.0, max(0.0, done / total)), f"{word(done)} of {word(total)}", len(word(total))))
    longest = max((2 * cells_of_total + len(" of ") for *_, cells_of_total in counts), default=0)
    width = min(_WIDEST_BAR, columns - len("  extracted    100%  ") - longest)
    for name, part, text, _ in counts:
        filled = int(part * width)
        bar = f"{full * filled}{empty * (width - filled)} " if width >= _SHORTEST_BAR else ""
        yield Line(f"  {name:<10} {bar}{part:4.0%}  {text}", f"  {name:<10} {part:4.0%}")
    rate, eta = status.number("rate"), status.number("eta_seconds")
    speed = "" if rate is None else f"{rate:,.0f} files/s"
    left = "" if eta is None else f"about {duration(eta)} left"
    forms = [[speed, left, status.text("current", 100)], [speed, left], [left or speed]]
    yield Line(*(f"  {', '.join(filter(None, parts))}" for parts in forms))


# --- without a terminal -------------------------------------------------------------------------------------------


def _line_by_line(look: Callable[[], View]) -> NoReturn:
    restarts = _Restarts()
    before: list[str] = []
    while True:
        view = look()
        note = restarts.note(view)
        lines = [f"no sidecar: {view.gone}"] if view.gone is not None else list(_words(view))
        if note and view.gone is None and note not in before:
            lines.insert(0, note)
        for line in lines:
            if line not in before:
                sys.stdout.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}\n")
                sys.stdout.flush()
        before = lines + ([note] if note else [])
        time.sleep(INTERVAL)


def _words(view: View) -> Iterator[str]:
    """Yield what is worth a line when it changes."""
    yield f"{'ready' if view.ready else 'not ready'}: {view.status.text('phase') or 'no phase'}"
    for check in telling(view.status, list(view.checks)):
        if (verdict := check.text("status", 20)) != "pending":  # no news
            yield f"check {check.text('name', 50)}: {verdict}"
    imported = view.status.inner("import")
    if (state := imported.text("state", 30)) not in ("", "none"):
        files = imported.inner("files")
        done, total = files.number("done"), files.number("total")
        tenths = f", {10 * int(10 * done / total)} % of {total:.0f} files" if done is not None and total else ""
        yield f"import: {state}{tenths}"
    yield from (line.strip() for line in failure(view.status))
    if state := view.status.inner("root_password").text("state", 30):
        yield f"root's password: {state}"


class _Restarts:
    """Detects restarts of the sidecar."""

    def __init__(self) -> None:
        self._started = ""
        self._note = ""

    def note(self, view: View) -> str:
        """Return the line about the last restart; empty if there was none."""
        if view.started and view.started != self._started:
            self._note = f"restarted at {view.started}" if self._started else ""
            self._started = view.started
        return self._note
