"""devpi-server restarted under clients: `restarts`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench.processes import CHEAP, PASSWORD, PATIENCE, POLL, ByHand, Ours, devpi_init, devpi_server, free_ports
from bench.report import Reach, Result, Row
from bench.rounds import ROOT, Bench, Comparison, Failed, Values
from testbed.clients import Clients
from testbed.restartable import DONE

CLIENTS = 8
_BY_HAND, _OURS = "plain devpi-server", "devpi-sidecar"


def restarts(bench: Bench) -> Result:
    """Effects of a series of restarts on clients."""
    count = 3 if bench.quick else 50

    def by_hand(folder: Path) -> Values:
        (port,) = free_ports(1)
        serverdir = folder / "serverdir"
        with ExitStack() as stack:
            bare = stack.enter_context(ByHand(folder, devpi_init(serverdir), devpi_server(serverdir, port, *CHEAP)))
            bare.first_200(port, "/+api")

            def restart() -> None:
                nonlocal bare
                bare.end()
                bare = stack.enter_context(ByHand(folder, devpi_server(serverdir, port, *CHEAP)))
                bare.first_200(port, "/+api")

            return _beside_clients(port, restart, count)

    def ours(folder: Path) -> Values:
        with Restartable(folder) as container:
            container.ready()
            return _beside_clients(container.devpi_port, container.restart, count)

    outcome = bench.in_turn({_BY_HAND: by_hand, _OURS: ours})

    def row(what: str, unit: str, quantity: str, reach: Reach | None = None) -> Row:
        return Row(what, unit, outcome.series(_BY_HAND, quantity), outcome.series(_OURS, quantity), reach)

    return Result(
        [
            row("connections refused, reset, or closed without an answer", "", "failures", Reach("worst", "≤", 0)),
            row("acknowledged uploads lost", "", "lost", Reach("worst", "≤", 0)),
            row("the slowest answer", "s", "longest", Reach("worst", "≤", 2)),
            row("a restart, from the request to ready", "s", "restart"),
            row("answers during the restarts", "1/s", "answers"),
        ],
        [
            f"{count} restarts in a row with {CLIENTS} clients: two upload, the others request a page and a file in "
            "turn, on kept connections; none retries. Plain devpi-server: SIGTERM, then devpi-server again, with "
            "--argon2-* so cheap that its start does not wait for a key derivation.",
        ],
    )


class Restartable(Ours):
    """The container with a driver that restarts devpi-server at SIGUSR1."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        entrypoint = self._command.index(ROOT / "entrypoint.py")
        command = list(self._command)
        command[entrypoint - 1 : entrypoint + 1] = [sys.executable, ROOT / "testbed" / "restartable.py"]
        self._command = command

    def __enter__(self) -> Restartable:
        super().__enter__()
        return self

    def restart(self) -> None:
        """Restart, and wait until it is ready again. Raises `Failed`."""
        before = self.log.read_text(errors="replace").count(DONE)
        os.kill(self.pid, signal.SIGUSR1)
        deadline = time.monotonic() + PATIENCE
        while self.log.read_text(errors="replace").count(DONE) == before:
            if not self.runs or time.monotonic() > deadline:
                raise Failed(f"it was not restarted: {self.last_words()}")
            time.sleep(POLL)


def _beside_clients(port: int, restart: Callable[[], None], count: int) -> Values:
    began, took = time.monotonic(), []
    with Clients(f"127.0.0.1:{port}", PASSWORD, CLIENTS) as clients:
        for _ in range(count):
            at = time.monotonic()
            restart()
            took.append(time.monotonic() - at)
            time.sleep(0.2)
        spent = time.monotonic() - began
    return {
        "failures": len(clients.failures),
        "lost": len(clients.lost()),
        "longest": clients.longest,
        "restart": sum(took) / len(took),
        "answers": clients.answered() / spent,
    }


COMPARISONS = (Comparison("restarts", "devpi-server restarted under 8 clients", restarts),)
