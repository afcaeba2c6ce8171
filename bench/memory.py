"""Memory use: `memory`, `memory-limit`."""

from __future__ import annotations

import base64
import http.client
import json
import threading
import time
from collections import Counter
from pathlib import Path

from bench import inputs
from bench.limits import MemoryLimit
from bench.processes import PASSWORD, ByHand, Ours, devpi_init, devpi_server, free_ports, get
from bench.report import Reach, Result, Row, Series
from bench.rounds import Bench, Comparison, Failed, Values
from testbed import sampling

MIB = sampling.MIB
LIMIT = 192 * MIB
LOGINS = 50
_BY_HAND, _OURS, _IMPORT = "plain devpi-server", "devpi-sidecar", "devpi-sidecar, after an import"


def memory(bench: Bench) -> Result:
    """Peak of all processes until ready; the sidecar's own, before and after an import."""
    export = inputs.export(bench.inputs, inputs.SMALL if bench.quick else inputs.Spec(projects=500, files=2000))

    def imported(folder: Path) -> Values:
        with Ours(folder, init_dir=export.as_archive) as ours:
            ours.live()
            begun = sampling.rss(ours.pid)
            ours.ready()
            return _sidecar(ours) | {"begun": begun / MIB}

    outcome = bench.in_turn({_BY_HAND: _peak_by_hand, _OURS: _peak_ours, _IMPORT: imported})
    after, before = outcome.series(_IMPORT, "rss"), outcome.series(_OURS, "rss")
    return Result(
        [
            Row("peak of the sum of PSS, empty → ready", "MiB", outcome.series(_BY_HAND, "peak"),
                outcome.series(_OURS, "peak"), Reach("ratio", "≤", 0.30)),
            Row("samples taken", "", outcome.series(_BY_HAND, "samples"), outcome.series(_OURS, "samples")),
            Row("the sidecar's own RSS, ready after an empty start", "MiB", None, before, Reach("worst", "≤", 45)),
            Row(f"the sidecar's own RSS, ready after an import of {export.spec.files:,} files", "MiB", None, after,
                Reach("worst", "≤", 45)),
            Row("its RSS when that import started", "MiB", None, outcome.series(_IMPORT, "begun")),
            Row("its peak RSS until then (VmHWM)", "MiB", None, outcome.series(_IMPORT, "highest"),
                Reach("worst", "≤", 45)),
            Row("after the import ÷ after an empty start (“the same”: within 5 %)", "", None, after.over(before),
                Reach("median", "≤", 1.05)),
        ],
        [
            "Sum of the PSS of all processes of the tree, from /proc/PID/smaps_rollup, sampled every 10 ms.",
            "Plain devpi-server: `devpi-init … && devpi-server`, in a shell, which is included.",
        ],
    )  # fmt: skip


def _peak_by_hand(folder: Path) -> Values:
    (port,) = free_ports(1)
    state = folder / "serverdir"
    with ByHand(folder, devpi_init(state), devpi_server(state, port)) as server:
        with sampling.Sampler(server.pid) as sampler:
            server.first_200(port, "/+api")
        return {"peak": sampler.peak / MIB, "samples": sampler.samples}


def _peak_ours(folder: Path) -> Values:
    with Ours(folder) as ours:
        with sampling.Sampler(ours.pid) as sampler:
            ours.ready()
        return _sidecar(ours) | {"peak": sampler.peak / MIB, "samples": sampler.samples}


def _sidecar(ours: Ours) -> dict[str, float]:
    """The sidecar's own memory after some seconds of requests to `/status`."""
    until = time.monotonic() + 3
    while time.monotonic() < until:
        ours.status()
        time.sleep(0.25)
    return {"rss": sampling.rss(ours.pid) / MIB, "highest": sampling.peak_rss(ours.pid) / MIB}


def memory_limit(bench: Bench) -> Result:
    """Does it start, serve, and survive 50 logins at once under 192 MiB?"""
    with MemoryLimit(LIMIT) as limit:
        how = limit.how
    outcome = bench.in_turn({_BY_HAND: _limited_by_hand, _OURS: _limited_ours})
    ours = {name: outcome.series(_OURS, name) for name in _LIMITED}
    return Result(
        [
            Row("starts and is ready (1 = yes)", "", outcome.series(_BY_HAND, "ready"), ours["ready"],
                Reach("worst", "≥", 1)),
            Row("processes killed for lack of memory", "", outcome.series(_BY_HAND, "kills"), ours["kills"],
                Reach("worst", "≤", 0)),
            Row("peak memory charged, page cache included", "MiB", None, ours["peak"]),
            *(row for kind in ("logins", "basic") for row in _answers(kind, ours)),
        ],
        [
            f"Limit: {LIMIT // MIB} MiB, no swap, by {how}; the commands are those of `first-start`.",
            f"Plain devpi-server has {_GIVE_UP:.0f} s to become ready.",
            f"Logins: {LOGINS} of `POST /+login` with the correct password, at once. Basic: {LOGINS} of `GET /+api` "
            "with user and password, at once. Shed: 503 with Retry-After.",
        ],
    )  # fmt: skip


_GIVE_UP = 60.0
_PARTS = ("ok", "shed", "lost", "slowest", "ready after")
_LIMITED = ("ready", "kills", "peak", *(f"{kind} {part}" for kind in ("logins", "basic") for part in _PARTS))


def _answers(kind: str, ours: dict[str, Series]) -> list[Row]:
    return [
        Row(f"{kind}: answered 200", "", None, ours[f"{kind} ok"], Reach("worst", "≥", 1)),
        Row(f"{kind}: shed", "", None, ours[f"{kind} shed"]),
        Row(f"{kind}: any other answer, or none", "", None, ours[f"{kind} lost"], Reach("worst", "≤", 0)),
        Row(f"{kind}: the slowest answer", "s", None, ours[f"{kind} slowest"]),
        Row(f"{kind}: ready 5 s later, with the same process (1 = yes)", "", None, ours[f"{kind} ready after"],
            Reach("worst", "≥", 1)),
    ]  # fmt: skip


def _limited_by_hand(folder: Path) -> Values:
    (port,) = free_ports(1)
    state = folder / "serverdir"
    commands = devpi_init(state), devpi_server(state, port)
    with MemoryLimit(LIMIT) as limit, ByHand(folder, *commands, prefix=limit.prefix) as server:
        try:
            server.first_200(port, "/+api", _GIVE_UP)
            ready = 1.0
        except Failed:
            ready = 0.0
        return {"ready": ready} | _charged(limit, "kills")


def _limited_ours(folder: Path) -> Values:
    with MemoryLimit(LIMIT) as limit, Ours(folder, prefix=limit.prefix) as ours:
        values: dict[str, float] = {"ready": 0.0}
        try:
            ours.first_200(ours.port, "/readyz", _GIVE_UP)
        except Failed:
            return values | _charged(limit, "kills", "peak")
        values["ready"] = 1.0
        devpi = ours.devpi_pid
        for kind in ("logins", "basic"):
            values |= _at_once(ours.devpi_port, kind)
            time.sleep(5)
            is_ready = ours.runs and ours.devpi_pid == devpi and get(ours.port, "/readyz")[0] == 200
            values[f"{kind} ready after"] = float(is_ready)
            if not is_ready:
                break
        return values | _charged(limit, "kills", "peak")


def _charged(limit: MemoryLimit, *names: str) -> dict[str, float]:
    """What the kernel counted; a value that it does not count is left out and reported as not measured."""
    values: dict[str, float] = {}
    for name, look in (("kills", limit.kills), ("peak", limit.peak)):
        if name in names:
            try:
                values[name] = look() / (MIB if name == "peak" else 1)
            except Failed:
                continue
    return values


def _at_once(port: int, kind: str) -> dict[str, float]:
    """`LOGINS` requests that each need a password check, all sent at once."""
    gate = threading.Barrier(LOGINS)
    answers: Counter[str] = Counter()
    times: list[float] = []

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        gate.wait()
        began = time.monotonic()
        try:
            if kind == "logins":
                body = json.dumps({"user": "root", "password": PASSWORD})
                connection.request("POST", "/+login", body, {"Content-Type": "application/json", "Accept": "*/*"})
            else:
                connection.request("GET", "/+api", headers={"Authorization": _basic(), "Accept": "*/*"})
            answer = connection.getresponse()
            answer.read()
            shed = answer.status == 503 and answer.getheader("Retry-After")
            answers["ok" if answer.status == 200 else "shed" if shed else "lost"] += 1
        except (OSError, http.client.HTTPException):
            answers["lost"] += 1
        finally:
            connection.close()
            times.append(time.monotonic() - began)

    threads = [threading.Thread(target=ask) for _ in range(LOGINS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {f"{kind} {part}": answers[part] for part in ("ok", "shed", "lost")} | {f"{kind} slowest": max(times)}


def _basic() -> str:
    return "Basic " + base64.b64encode(f"root:{PASSWORD}".encode()).decode()


COMPARISONS = (
    Comparison("memory", "Peak memory until ready, and the sidecar's own", memory),
    Comparison("memory-limit", "Life under a memory limit of 192 MiB", memory_limit),
)
