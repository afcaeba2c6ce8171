"""The cost of open pages: `page` and `streams`."""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench.processes import Ours
from bench.report import Reach, Result, Row
from bench.rounds import Bench, Comparison, Failed, Values
from testbed import sampling
from testbed.browser import BROWSER_FLAGS, PAINTED, VIEWPORT, WEIGHT, browser_path

if TYPE_CHECKING:
    from playwright.sync_api import Page

_OURS = "devpi-sidecar"
STREAMS = 200
"""The maximum that the sidecar accepts."""
PATIENCE = 60.0
"""Seconds within which a stream must send something, or a page be painted."""


def page(bench: Bench) -> Result:
    """Time to the first paint of the page, and its size."""
    loads = 5 if bench.quick else 20

    def run(folder: Path) -> Values:
        if (path := browser_path()) is None:
            raise Failed("no Chromium found: run `apt-get install chromium`, or set CHROMIUM")
        with Ours(folder) as ours:
            ours.ready()
            return _paints(path, f"http://127.0.0.1:{ours.port}/", loads)

    outcome = bench.in_turn({_OURS: run})

    def row(what: str, unit: str, quantity: str, reach: Reach | None = None) -> Row:
        return Row(what, unit, None, outcome.series(_OURS, quantity), reach)

    return Result(
        [
            row("navigation → first contentful paint, in an open tab", "ms", "tab", Reach("median", "≤", 100)),
            row("the slowest of these", "ms", "slowest"),
            row("the same, in a new profile, including the start of its process", "ms", "profile"),
            row("transferred in total", "kB", "weight", Reach("worst", "≤", 60)),
        ],
        [
            f"A headless Chromium on the machine's CPUs, `/` of a ready container, the browser's cache switched off; "
            f"the value of a run is the median of {loads} loads after one warm-up, in the tab each from an empty page. "
            "Transferred: page, style, script and icon with their headers, without the event stream.",
        ],
    )


def _paints(browser: str, url: str, loads: int) -> Values:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, ExitStack() as stack:
        chromium = playwright.chromium.launch(
            executable_path=browser, args=list(BROWSER_FLAGS), chromium_sandbox=os.geteuid() != 0
        )
        stack.callback(chromium.close)

        def load(tab: Page) -> float:
            tab.goto(url)
            deadline = time.monotonic() + PATIENCE
            while not (painted := tab.evaluate(PAINTED)):  # the page's own policy forbids Playwright's wait
                if time.monotonic() > deadline:
                    raise Failed(f"nothing was painted for {PATIENCE:.0f} s")
            return float(painted)

        profiles: list[float] = []
        for _ in range(loads + 1):
            with chromium.new_context(viewport=VIEWPORT) as profile:
                profiles.append(load(profile.new_page()))
        tab = chromium.new_context(viewport=VIEWPORT).new_page()
        tab.context.new_cdp_session(tab).send("Network.setCacheDisabled", {"cacheDisabled": True})
        tabs: list[float] = []
        for _ in range(loads + 1):
            tab.goto("about:blank")
            tabs.append(load(tab))
        weight = float(tab.evaluate(WEIGHT))
    counted = {"profile": profiles[1:], "tab": tabs[1:]}
    medians = {name: median(paints) for name, paints in counted.items()}
    return medians | {"slowest": max(counted["tab"]), "weight": weight / 1000}


def streams(bench: Bench) -> Result:
    """Many event streams while nothing happens."""

    def run(folder: Path) -> Values:
        with Ours(folder) as ours, ExitStack() as opened:
            ours.ready()
            return hold_streams(opened, ours.pid, ours.port)

    outcome = bench.in_turn({_OURS: run})

    def row(what: str, unit: str, quantity: str, reach: Reach | None = None) -> Row:
        return Row(what, unit, None, outcome.series(_OURS, quantity), reach)

    return Result(
        [
            row("the sidecar's RSS: increase", "MiB", "memory", Reach("worst", "≤", 20)),
            row("CPU of one core: increase", "%", "cpu", Reach("median", "≤", 2)),
            row("CPU of one core with one stream", "%", "cpu alone"),
        ],
        [
            f"{STREAMS} streams of `/events` compared with one, devpi-server ready and idle: CPU from one pulse to the "
            "next, 15 s.",
        ],
    )


def hold_streams(opened: ExitStack, pid: int, port: int, number: int = STREAMS) -> Values:
    """Open one stream, then all of them, until `opened` closes. Raises `Failed` if one ends."""

    def stream() -> socket.socket:
        connection = opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
        connection.sendall(b"GET /events HTTP/1.1\r\nHost: h\r\n\r\n")
        return connection

    first = [stream()]
    _heard(first, b"\nid: ")
    alone = _cpu_until(pid, lambda: _heard(first, b"event: "))
    before = sampling.rss(pid)
    every = first + [stream() for _ in range(number - 1)]
    _heard(every[1:], b"\nid: ")
    memory = sampling.rss(pid) - before
    _heard(every, b"event: ")
    together = _cpu_until(pid, lambda: _heard(every, b"event: "))
    return {"memory": memory / sampling.MIB, "cpu": 100 * (together - alone), "cpu alone": 100 * alone}


def _cpu_until(pid: int, until: Callable[[], None]) -> float:
    """Return seconds of CPU per second while `until` runs."""
    began, used = time.monotonic(), sampling.own_cpu(pid)
    until()
    return (sampling.own_cpu(pid) - used) / (time.monotonic() - began)


def _heard(connections: Sequence[socket.socket], words: bytes) -> None:
    """Return once each stream has sent `words` from now on."""
    received = dict.fromkeys(connections, b"")
    deadline = time.monotonic() + PATIENCE
    with selectors.DefaultSelector() as selector:
        for each in connections:
            selector.register(each, selectors.EVENT_READ, each)
        while waiting := selector.get_map():
            if time.monotonic() > deadline:
                raise Failed(f"{len(waiting)} streams have sent nothing for {PATIENCE:.0f} s")
            for key, _ in selector.select(1):
                connection: socket.socket = key.data
                if not (got := connection.recv(1 << 16)):
                    raise Failed("a stream has ended")
                received[connection] += got
                if words in received[connection]:
                    selector.unregister(connection)


COMPARISONS = (
    Comparison("page", "The page at `/`, in a browser", page),
    Comparison("streams", f"{STREAMS} open pages while nothing happens", streams),
)
