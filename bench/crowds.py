"""devpi-server under many clients with password checks: `passwords`."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from pathlib import Path

from bench.probes import Load
from bench.processes import ByHand, Ours, devpi_init, devpi_server, free_ports
from bench.report import Reach, Result, Row
from bench.rounds import Bench, Comparison, Failed, Values
from testbed.sampling import MIB, RssWatch

CLIENTS, FEWER = 90, 80
_BY_HAND, _OURS = "plain devpi-server", "devpi-sidecar"


def _basic(*passwords: str) -> list[str]:
    """Return the load generator's arguments: each client has one of these passwords of root."""
    return _headers("Authorization: Basic ", passwords)


def _headers(before: str, passwords: Sequence[str]) -> list[str]:
    encoded = [base64.b64encode(f"root:{each}".encode()).decode() for each in passwords]
    return [part for each in encoded for part in ("--one-of", before + each)]


def _logins(*passwords: str) -> list[str]:
    bodies = [json.dumps({"user": "root", "password": each}) for each in passwords]
    return [part for each in bodies for part in ("--post", each)]


_WRONG = [f"wrong {number}" for number in range(CLIENTS)]
SHAPES: dict[str, tuple[int, Sequence[str], str]] = {
    "Basic": (CLIENTS, _basic(*_WRONG), "/+api"),
    "X-Devpi-Auth": (CLIENTS, _headers("X-Devpi-Auth: ", _WRONG), "/+api"),
    "/+login": (CLIENTS, _logins(*_WRONG), "/+login"),
    "Basic, 80 clients with eight": (FEWER, _basic(*_WRONG[:8]), "/+api"),
}
"""Kind of password check → clients, the load generator's arguments, and the path."""


def passwords(bench: Bench) -> Result:
    """`GET /+api` of another client, and devpi-server's memory."""
    seconds = 2.0 if bench.quick else 6.0

    def by_hand(folder: Path) -> Values:
        (port,) = free_ports(1)
        serverdir = folder / "serverdir"
        with ByHand(folder, devpi_init(serverdir), devpi_server(serverdir, port)) as bare:
            bare.first_200(port, "/+api")
            return _crowds(port, bare.pid, seconds)

    def ours(folder: Path) -> Values:
        with Ours(folder) as container:
            container.ready()
            return _crowds(container.devpi_port, container.devpi_pid, seconds)

    outcome = bench.in_turn({_BY_HAND: by_hand, _OURS: ours})

    def row(shape: str, what: str, unit: str, quantity: str, reach: Reach | None = None) -> Row:
        by_hand, ours = (outcome.series(way, f"{shape} {quantity}") for way in (_BY_HAND, _OURS))
        return Row(f"{shape}: {what}", unit, by_hand, ours, reach)

    rows = []
    for shape in SHAPES:
        reach = None if shape == "/+login" else Reach("median", "≤", 500)
        rows += [
            row(shape, "`+api` of another client, p99", "ms", "p99", reach),
            row(shape, "devpi-server's peak RSS", "MiB", "memory"),
            row(shape, "passwords checked", "1/s", "checked"),
            row(shape, "rejected with 503", "1/s", "away"),
        ]
    return Result(
        rows,
        [
            f"{CLIENTS} clients, each with its own wrong password, or {FEWER} that share eight, with one request after "
            f"the other, {seconds:.0f} s of each kind; another client requests `/+api` ten times a second, over a new "
            "connection each time. All processes share the machine's CPUs.",
            "devpi-server handles a login in its only write transaction; `+api` only reads and doesn't wait for it.",
        ],
    )


def _crowds(port: int, pid: int, seconds: float) -> Values:
    values: dict[str, float] = {}
    for shape, (clients, options, path) in SHAPES.items():
        with RssWatch(pid, 0.01) as memory:
            crowd = Load("closed", "--clients", clients, "--seconds", seconds + 1, *options, port, path)
            try:
                time.sleep(0.5)
                bystander = Load("open", "--rate", 10, "--seconds", seconds, port, "/+api").result()
                said = crowd.result()
            finally:
                crowd.stop()
        answers = said["outcomes"]
        if set(answers) - {"200", "401", "503"}:
            raise Failed(f"{shape}: answers were {answers}")
        values |= {
            f"{shape} p99": bystander["p99"] * 1000,
            f"{shape} memory": max(memory.values) / MIB,
            f"{shape} checked": (answers.get("200", 0) + answers.get("401", 0)) / said["seconds"],
            f"{shape} away": answers.get("503", 0) / said["seconds"],
        }
        time.sleep(1)
    return values


COMPARISONS = (Comparison("passwords", f"{CLIENTS} clients with a password each", passwords),)
