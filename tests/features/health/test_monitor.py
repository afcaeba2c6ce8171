"""`sidecar.features.health.monitor`: answers to probes with a devpi-server that is slow, broken or not running."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sidecar.core.board import Board
from sidecar.core.check import Check, CheckStatus, overall
from sidecar.core.lifecycle import Failure, Lifecycle, Phase
from sidecar.core.settings import MonitorSettings
from sidecar.devpi.client import DevpiClient
from sidecar.devpi.protocol import PrimaryAnswered
from sidecar.devpi.server_status import ServerStatus, Unreplicated
from sidecar.features.credentials.root_has_one import judge_root_password
from sidecar.features.health.checks.events import judge_events
from sidecar.features.health.checks.http import HttpJudge
from sidecar.features.health.checks.replication import ReplicationJudge
from sidecar.features.health.monitor import Health, Serving
from sidecar.features.health.volume import Volume
from tests.support.fake_devpi import UUID, FakeDevpi, eventually, status_of

PASS, PENDING, WARN, FAIL = CheckStatus
GATING = {"process", "http", "write", "lock", "replication", "root-password"}
INTERVAL = 0.1


@pytest.fixture
def serverdir(tmp_path: Path) -> Path:
    """A serverdir with a real SQLite database."""
    serverdir = tmp_path / "serverdir"
    (serverdir / ".sidecar").mkdir(parents=True)
    make_database(serverdir)
    return serverdir


def make_database(serverdir: Path) -> None:
    with contextlib.closing(sqlite3.connect(serverdir / ".sqlite")) as database:
        database.execute("create table changelog (serial integer)")
        database.commit()


class World:
    """A running monitor, and the devpi-server that it probes."""

    def __init__(self, serverdir: Path, settings: MonitorSettings) -> None:
        self.devpi = FakeDevpi()
        self.lifecycle = Lifecycle()
        self.offset = 0.0
        clock = lambda: time.monotonic() + self.offset  # noqa: E731
        self.board = Board(clock=clock)
        self.health = Health(self.lifecycle, self.board, settings, clock=clock)
        self.board.declare("root-password", "root has a password", gates=True)
        self.serverdir = serverdir
        self.client: DevpiClient | None = None
        self.timeout = settings.request_timeout
        self.task = asyncio.create_task(self.health.run())

    async def serve(self, role: str = "standalone", uuid: str | None = UUID, *, listening: bool = True) -> None:
        """Enter LAUNCHING and probe a devpi-server."""
        address = await self.devpi.start()
        if not listening:
            await self.devpi.stop()
        self.client = DevpiClient(address, self.timeout)
        if self.lifecycle.snapshot.phase is Phase.STARTING:
            self.lifecycle.enter(Phase.LAUNCHING)
        self.root_password("set", allowed=False)
        self.health.probe(Serving(os.getpid(), self.client, self.serverdir, uuid, role, lambda: None))

    async def ready(self) -> None:
        """Enter READY as the supervisor does."""
        await asyncio.wait_for(self.health.wait_until_ready(), 60)
        if self.lifecycle.snapshot.phase is Phase.LAUNCHING:
            self.lifecycle.enter(Phase.READY)

    def root_password(self, state: str, allowed: bool) -> None:
        """Push the verdict of the feature `credentials`."""
        self.board.push("root-password", judge_root_password(state, allowed))

    def blocking(self) -> tuple[Check, ...]:
        """Return what /readyz reports."""
        return tuple(check for check in self.board.checks() if check.blocks)

    def check(self, name: str) -> Check:
        return next(check for check in self.board.checks() if check.name == name)

    async def sees(self, name: str, status: CheckStatus, seconds: float = 60) -> Check:
        """Return the check once it has that status, unless a busy machine keeps the monitor waiting."""
        seen: list[Check] = []

        def is_so() -> bool:
            seen[:] = [self.check(name)]
            return seen[0].status is status and not (seen[0].reason or "").startswith("stale: ")

        await eventually(is_so, seconds)
        return seen[0]

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        if self.client is not None:
            await self.client.close()
        await self.devpi.stop()


SETTINGS = MonitorSettings(interval=INTERVAL, request_timeout=30, dead_after=60, disk_warn_bytes=1)
"""No answer is slow by these settings, whatever else the machine does."""
SOON = replace(SETTINGS, request_timeout=1, dead_after=3)
"""With these settings a missing answer is noticed within seconds, and one that comes is not slow."""


@pytest.fixture
async def world(serverdir: Path) -> AsyncIterator[World]:
    world = World(serverdir, SETTINGS)
    yield world
    await world.close()


@pytest.fixture
async def impatient(serverdir: Path) -> AsyncIterator[World]:
    """A world in which a missing answer is noticed soon."""
    world = World(serverdir, SOON)
    yield world
    await world.close()


# --- before devpi-server runs ------------------------------------------------------------------------------------


async def test_at_first_every_gate_is_closed(world: World) -> None:
    """Nothing was probed, so no gating check passes, and none fails."""
    assert {PENDING} == {check.status for check in world.board.checks()}
    assert GATING == {check.name for check in world.blocking()}
    assert ["process", "http", "write", "lock", "replication", "root-password", "disk", "events"] == [
        check.name for check in world.board.checks()
    ]


async def test_process_names_the_phase(world: World) -> None:
    """The reason is the container's phase, with its progress."""
    assert world.check("process").reason == "starting"
    world.lifecycle.enter(Phase.IMPORTING)
    assert world.check("process").reason == "importing: none"
    world.lifecycle.advance("512 of 2000 files")
    assert world.check("process").reason == "importing: 512 of 2000 files"
    world.lifecycle.enter(Phase.LAUNCHING)
    assert world.check("process").reason == "launching: devpi-server has not started yet"
    world.lifecycle.enter(Phase.FAILED, Failure("no", "do this"))
    assert (world.check("process").reason, world.check("process").hint) == ("failed: no", "do this")


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.INITIALISING, Phase.IMPORTING, Phase.LAUNCHING])
async def test_what_was_not_looked_at_yet_is_pending(
    world: World, phase: Phase, caplog: pytest.LogCaptureFixture
) -> None:
    """During start-up no check fails or warns, none is ready, the log is silent, and there is no trend."""
    with caplog.at_level(logging.INFO, "sidecar.core.board"):
        if phase is not Phase.STARTING:
            world.lifecycle.enter(phase)
        await eventually(lambda: world.health.age() < INTERVAL)
    assert {PENDING} == {check.status for check in world.board.checks()}
    assert {"not checked yet"} == {check.reason for check in world.board.checks() if check.name != "process"}
    assert GATING == {check.name for check in world.blocking()}
    assert [] == [sample for trend in world.board.history() for sample in trend.samples]
    assert [] == caplog.messages
    assert {"ready": 0, "not_ready": 0} == world.board.turns


@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.STOPPING])
async def test_what_will_never_be_looked_at_is_not_pending(world: World, phase: Phase) -> None:
    """After a failed import or a stop, no devpi-server will come: that is a failure, not pending."""
    world.lifecycle.enter(Phase.IMPORTING)
    world.lifecycle.enter(phase, Failure("no", "do this") if phase is Phase.FAILED else None)
    checks = {check.name: check for check in world.board.checks()}
    assert {FAIL} == {check.status for check in checks.values() if check.gates}
    assert {WARN} == {check.status for check in checks.values() if not check.gates}
    process = checks.pop("process")
    assert process.reason == ("failed: no" if phase is Phase.FAILED else "stopping")
    assert {"devpi-server is not running"} == {check.reason for check in checks.values()}


async def test_a_launch_is_pending_until_it_takes_too_long(serverdir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A starting devpi-server has a minute to answer; after that it is a failure, and logged."""
    world = World(serverdir, SETTINGS)
    await world.serve(listening=False)
    await eventually(lambda: (world.check("http").reason or "").startswith("launching: devpi-server has not listened"))
    assert (PENDING, None) == (world.check("http").status, world.check("http").value)
    assert "http" in {check.name for check in world.blocking()}
    world.offset = 61
    await world.sees("http", FAIL)
    await eventually(lambda: any(message.startswith("check http: fail") for message in caplog.messages))
    await world.close()


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ({"process": PASS, "disk": PASS}, PASS),
        ({"process": PASS, "disk": WARN}, WARN),
        ({"process": PASS, "disk": PENDING}, PENDING),
        ({"process": PENDING, "disk": WARN}, PENDING),
        ({"process": WARN, "disk": PENDING}, WARN),
        ({"process": PENDING, "http": FAIL, "disk": WARN}, FAIL),
    ],
)
def test_one_verdict_on_all(statuses: dict[str, CheckStatus], expected: CheckStatus) -> None:
    """`pass` or `warn` only if no gating check fails or is pending."""
    at = datetime.now(UTC)
    assert expected is overall([Check(name, status, at, name != "disk") for name, status in statuses.items()])


async def test_readiness_is_seen_at_once(serverdir: Path) -> None:
    """While devpi-server starts it is probed every few milliseconds, whatever the interval."""
    world = World(serverdir, replace(SETTINGS, interval=3600))
    await world.serve(listening=False)
    await eventually(lambda: (world.check("http").reason or "").startswith("launching: devpi-server has not listened"))
    await world.devpi.start()
    await world.ready()  # less than an interval
    assert world.blocking() == ()
    await world.close()


async def test_not_ready_in_a_phase_that_does_not_serve(world: World) -> None:
    """A stop makes it not ready at once, although devpi-server still answers."""
    await world.serve()
    await world.ready()
    world.lifecycle.enter(Phase.STOPPING)
    assert ["process"] == [check.name for check in world.blocking()]
    assert world.check("process").reason == "stopping"


async def test_watching_nothing_again(world: World) -> None:
    """Without a devpi-server nothing is left of its results."""
    await world.serve()
    await world.ready()
    world.health.probe(None)
    assert {"process", "http", "write", "lock", "replication"} == {check.name for check in world.blocking()}
    assert world.check("http").reason == "devpi-server is not running"


# --- http: busy is not broken ------------------------------------------------------------------------------------


async def test_slow_is_a_warning_until_it_is_dead(impatient: World, caplog: pytest.LogCaptureFixture) -> None:
    """No answer warns; none for `dead_after` seconds fails; an answer ends the failure; each is logged once."""
    world = impatient
    await world.serve()
    await world.ready()
    with caplog.at_level(logging.INFO, "sidecar.core.board"):
        world.devpi.delay = 60
        slow = await world.sees("http", WARN)
        assert slow.reason is not None
        assert slow.reason.startswith("slow: no answer for")
        assert world.blocking() == ()
        dead = await world.sees("http", FAIL)
        assert dead.reason is not None
        assert dead.reason.startswith("dead: no answer for")
        assert dead.value is not None
        assert dead.value >= SOON.dead_after
        world.devpi.delay = 0
        await world.sees("http", PASS)
    told = [(r.levelname, r.getMessage().split(": ")[1]) for r in caplog.records if "check http" in r.getMessage()]
    assert told == [("WARNING", "warn"), ("WARNING", "fail"), ("INFO", "pass again")]


async def test_a_slow_answer_passes_as_slow(world: World) -> None:
    """An answer after more than a second warns, with the seconds as its value."""
    judge = HttpJudge(30, 0)
    verdict = judge.answered(1.5, 1.5)
    assert (verdict.status, verdict.value, verdict.unit) == (WARN, 1.5, "seconds")
    assert judge.answered(0.2, 2).status is PASS


async def test_slow_looks_do_not_make_the_monitor_stale(serverdir: Path) -> None:
    """The monitor ticks on while it waits for an answer for longer than three intervals."""
    interval = 1.0
    world = World(serverdir, replace(SETTINGS, interval=interval))
    await world.serve()
    await world.ready()
    world.devpi.delay = 60
    asked = world.devpi.calls["/+api"]
    await eventually(lambda: world.devpi.calls["/+api"] > asked)
    deadline = time.monotonic() + 4 * interval
    while time.monotonic() < deadline:
        assert "stale" not in (world.check("http").reason or "")
        assert world.health.age() < 3 * interval
        await asyncio.sleep(0.01)
    await world.close()


async def test_polite_503_is_slow(impatient: World) -> None:
    """503 with Retry-After means that load is shed."""
    world = impatient
    await world.serve()
    await world.ready()
    world.devpi.api = lambda: web.Response(status=503, headers={"Retry-After": "1"})
    assert "503" in ((await world.sees("http", WARN)).reason or "")
    await world.sees("http", FAIL)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda: web.Response(status=500), "answered 500"),
        (lambda: web.Response(text="<html>"), "the answer is not JSON"),
        (lambda: web.json_response({"result": {}}, headers={"X-Devpi-Uuid": "other"}), "another devpi-server"),
    ],
)
async def test_wrong_answers_fail_at_the_second(
    world: World, answer: Callable[[], web.StreamResponse], reason: str
) -> None:
    """One wrong answer warns, a second fails with the reason."""
    await world.serve()
    await world.ready()
    before: list[CheckStatus] = []

    def wrong() -> web.StreamResponse:
        before.append(world.check("http").status)
        return answer()

    world.devpi.api = wrong
    http = await world.sees("http", FAIL)
    assert [PASS, WARN] == before[:2]
    assert {FAIL} >= set(before[2:])
    assert reason in (http.reason or "")


async def test_refused_fails_at_the_second(world: World) -> None:
    """A server that answered before and refuses now is dead soon."""
    await world.serve()
    await world.ready()
    await world.devpi.stop()
    http = await world.sees("http", FAIL)
    assert http.reason == "connection refused"
    await world.devpi.start()
    await world.sees("http", PASS)


async def test_since_changes_with_the_status_alone(world: World) -> None:
    """A failing check's time stays the same while the seconds of its reason increase."""
    await world.serve()
    await world.ready()
    await world.devpi.stop()
    first = await world.sees("http", FAIL)
    calls = world.health._probes
    await eventually(lambda: not calls)
    await eventually(lambda: calls)
    await eventually(lambda: not calls)
    assert world.check("http").since == first.since
    assert first.since <= datetime.now(UTC)


async def test_process_ended_fails_at_once(world: World) -> None:
    """The supervisor's report counts before any probe; a new child clears it."""
    await world.serve()
    await world.ready()
    world.health.process_ended("devpi-server ended with code 1")
    assert world.check("process").reason == "devpi-server ended with code 1"
    gone = {check.name: check for check in world.board.checks() if check.name not in ("process", "root-password")}
    assert {"http", "write", "lock", "replication", "disk", "events"} == set(gone)
    assert {("devpi-server is not running", None)} == {(check.reason, check.value) for check in gone.values()}
    assert {FAIL, WARN} == {check.status for check in gone.values()}
    asked = world.devpi.calls["/+api"]
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1

    world.board.on_tick(tick)
    world.health.probe_now()
    await eventually(lambda: ticks > 3)
    assert asked == world.devpi.calls["/+api"]
    assert world.client is not None
    world.health.probe(Serving(os.getpid(), world.client, world.serverdir, UUID, "standalone", lambda: None))
    await world.ready()


async def test_a_vanished_process_is_noticed(world: World) -> None:
    """Without a report that the process exited, the monitor notices it."""
    gone = await asyncio.create_subprocess_exec("true")
    await gone.wait()
    await world.serve()
    await world.ready()
    assert world.client is not None
    world.health.probe(Serving(gone.pid, world.client, world.serverdir, UUID, "standalone", lambda: None))
    await eventually(lambda: world.check("process").reason == "devpi-server has exited")


# --- the monitor itself ------------------------------------------------------------------------------------------


async def test_a_monitor_that_stopped_makes_it_stale(world: World) -> None:
    """Readiness can't outlive its monitor: after three intervals every gating check fails as stale."""
    await world.serve()
    await world.ready()
    world.task.cancel()
    await asyncio.wait([world.task])
    assert world.blocking() == ()
    world.offset = 3 * INTERVAL + 1
    checks = world.board.checks()
    assert {FAIL} == {check.status for check in checks if check.gates}
    assert all((check.reason or "").startswith("stale: ") for check in checks if check.gates)
    assert world.health.age() == float("inf")


async def test_an_unexpected_error_fails_the_check_and_is_logged(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monitor survives its own bugs, and never turns one into a pass."""
    await world.serve()
    await world.ready()

    async def broken(_self: DevpiClient) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(DevpiClient, "api", broken)
        await eventually(lambda: world.check("http").reason == "internal error")
        assert "ZeroDivisionError" in caplog.text
    await world.sees("http", PASS)


async def test_look_now(serverdir: Path) -> None:
    """A requested probe doesn't wait for the interval."""
    world = World(serverdir, replace(SETTINGS, interval=60))
    await world.serve()
    await world.ready()
    await world.devpi.stop()
    world.health.probe_now()
    await world.sees("http", WARN)
    world.health.probe_now()
    await world.sees("http", FAIL)
    await world.close()


# --- write, disk -------------------------------------------------------------------------------------------------


async def test_write_check_leaves_nothing_behind(world: World) -> None:
    """The written file is removed again, also one that a killed probe left."""
    left = world.serverdir / ".sidecar" / "write-check"
    left.write_text("left")
    await world.serve()
    await world.ready()
    await eventually(lambda: not left.exists())
    assert list((world.serverdir / ".sidecar").iterdir()) == []


async def test_write_check_follows_no_link(serverdir: Path, tmp_path: Path) -> None:
    """A link in the file's place is removed, and its target is unchanged."""
    target = tmp_path / "target"
    target.write_text("precious")
    (serverdir / ".sidecar" / "write-check").symlink_to(target)
    assert Volume.of(serverdir).look(1).write.status is PASS
    assert target.read_text() == "precious"


async def test_a_removed_serverdir_fails_write(world: World) -> None:
    """The volume was removed: the errno's text, with a hint, without a path."""
    await world.serve()
    await world.ready()
    shutil.rmtree(world.serverdir)
    write = await world.sees("write", FAIL)
    assert write.reason == "can't write to the serverdir: no such file or directory"
    assert write.hint is not None
    assert str(world.serverdir) not in write.reason + write.hint


@pytest.mark.parametrize("how", ["removed", "replaced", "overwritten"])
async def test_a_database_that_is_not_the_same_fails_write(world: World, how: str) -> None:
    """devpi-server would create and serve an empty database, without users and open to any client."""
    await world.serve()
    await world.ready()
    database = world.serverdir / ".sqlite"
    if how == "overwritten":
        database.write_bytes(b"\0" * 4096)
    else:
        database.rename(database.with_suffix(".away"))
    if how == "replaced":
        make_database(world.serverdir)
    write = await world.sees("write", FAIL)
    assert "database" in (write.reason or "")
    assert "/" not in (write.reason or "")


async def test_without_a_database_file_there_is_none_to_watch(world: World) -> None:
    """Another storage than SQLite has no such file."""
    (world.serverdir / ".sqlite").unlink()
    await world.serve()
    await world.ready()
    assert world.check("write").status is PASS


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A separate volume of 1 MiB."""
    mountpoint = tmp_path / "volume"
    mountpoint.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mountpoint)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"can't mount a tmpfs here: {done.stderr.decode().strip()}")
    (mountpoint / ".sidecar").mkdir()
    yield mountpoint
    subprocess.run(["umount", "-l", str(mountpoint)], check=True)


def test_a_full_volume_fails_write(tmpfs: Path) -> None:
    """A full volume: the check fails with a hint, and passes once there is space."""
    volume = Volume.of(tmpfs)
    (tmpfs / "ballast").write_bytes(b"")
    with contextlib.suppress(OSError), (tmpfs / "ballast").open("wb") as ballast:
        while True:
            ballast.write(bytes(65536))
            ballast.flush()
    seen = volume.look(1)
    assert seen.write.reason == "can't write to the serverdir: no space left on device"
    assert "free space" in (seen.write.hint or "")
    assert (seen.disk.status, seen.disk.value) == (WARN, 0)
    (tmpfs / "ballast").unlink()
    assert volume.look(1).write.status is PASS


def test_a_read_only_volume_fails_write(tmpfs: Path) -> None:
    """A volume that was remounted read-only is reported as such."""
    subprocess.run(["mount", "-o", "remount,ro", str(tmpfs)], check=True)
    assert Volume.of(tmpfs).look(1).write.reason == "can't write to the serverdir: read-only file system"


async def test_disk_warns_below_its_limit_and_never_gates(serverdir: Path) -> None:
    """Little free space is a warning with the free bytes as its value."""
    world = World(serverdir, replace(SETTINGS, disk_warn_bytes=2**62))
    await world.serve()
    await world.ready()
    disk = await eventually(lambda: world.check("disk").value and world.check("disk"))
    assert (disk.status, disk.unit, disk.gates) == (WARN, "bytes", False)
    await world.close()


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["http", "status"])
async def test_an_error_is_asked_about_less_often(world: World, kind: str) -> None:
    """The second probe is as soon as ever; then the pause doubles, up to 10 s, until a valid answer."""
    await world.serve()
    watch = world.health.target()
    assert watch is not None
    world.task.cancel()  # this test probes itself
    look = {"http": watch.probe_http, "status": watch.probe_status}[kind]
    await look()
    assert watch.backed_off(kind, 0.25) == 0.25
    world.devpi.api, world.devpi.status_code = lambda: web.Response(status=500), 500
    pauses = []
    for _ in range(8):
        await look()
        pauses.append(watch.backed_off(kind, 0.25))
    assert [0.25, 0.5, 1, 2, 4, 8, 10, 10] == pauses
    assert watch.backed_off(kind, 60) == 60, "a longer pause remains"
    world.devpi.api, world.devpi.status_code = None, 200
    await look()
    assert watch.backed_off(kind, 0.25) == 0.25


async def test_a_status_that_fails_is_not_polled(world: World) -> None:
    """A replica whose +status answers 500 is probed ever more rarely, and reports that; the log has it once."""
    world.devpi.status_code = 500
    await world.serve(role="replica")
    await eventually(lambda: world.devpi.calls.get("/+status", 0) > 1)
    before, at = world.devpi.calls["/+status"], time.monotonic()
    await eventually(lambda: world.devpi.calls["/+status"] >= before + 4)
    assert time.monotonic() - at > 10 * INTERVAL, "4 usual pauses; these are of 2, 4 and 8 intervals at least"
    check = await world.sees("replication", FAIL)
    assert check.reason == "devpi-server does not report its status: answered 500"
    assert check.seen


async def test_an_old_status_says_nothing_of_the_primary(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """If +status fails, the age of the last update in the last one is no reason to doubt the primary."""
    at = time.time()
    world.devpi.status = status_of(
        role="REPLICA",
        primary_serial=7,
        update_from_primary_at=at,
        replica_init_queue_finished_at=at,
        replication_errors={},
    )
    await world.serve(role="replica")
    await world.ready()
    world.devpi.status_code = 500
    watch = world.health.target()
    assert watch is not None
    await eventually(lambda: watch._no_status)
    monkeypatch.setattr("sidecar.features.health.target.time.time", lambda: at + 120)
    reason = watch.replication().reason or ""
    assert re.fullmatch(r"devpi-server does not report its status for \d+ s: answered 500", reason), reason


# --- lock --------------------------------------------------------------------------------------------------------


async def test_a_lost_lock_is_seen_and_a_found_one_too(world: World) -> None:
    """It is probed once a second, whatever the interval; the reason is the lock's own."""
    lost: str | None = None
    await world.serve()
    assert world.client is not None
    serving = Serving(os.getpid(), world.client, world.serverdir, UUID, "standalone", lambda: lost)
    world.health.probe(serving)
    await world.ready()
    lost = "the serverdir's lock file was removed"
    check = await world.sees("lock", FAIL)
    assert lost in (check.reason or "")
    assert "start it again" in (check.hint or "")
    assert ["lock"] == [check.name for check in world.blocking()]
    lost = None
    await world.sees("lock", PASS)


async def test_a_lock_that_no_look_comes_back_from(impatient: World) -> None:
    """A volume that hangs does not report the lock, so the check does not pass."""
    world = impatient
    hangs, over = threading.Event(), threading.Event()

    def look() -> None:
        if hangs.is_set():
            over.wait(30)

    await world.serve()
    assert world.client is not None
    world.health.probe(Serving(os.getpid(), world.client, world.serverdir, UUID, "standalone", look))
    await world.ready()
    hangs.set()
    assert "has not answered" in ((await world.sees("lock", FAIL)).reason or "")
    hangs.clear()
    over.set()
    await world.sees("lock", PASS)


# --- root-password -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "allowed", "status", "hint"),
    [
        ("set", False, PASS, None),
        ("unknown", False, PASS, None),  # a replica's is its primary's
        ("empty", False, FAIL, "sidecar rotate"),
        ("empty", True, WARN, None),
        ("absent", False, FAIL, "sidecar rotate"),
        ("absent", True, WARN, None),
        ("unusable", False, FAIL, "sidecar rotate"),
        ("unusable", True, FAIL, "sidecar rotate"),
        ("unchecked", False, FAIL, "raise the limit of memory"),
        ("unchecked", True, WARN, "raise the limit of memory"),
        ("unseen", False, FAIL, "devpi-server's log"),
        ("unseen", True, WARN, "devpi-server's log"),
    ],
)
async def test_root_password(world: World, state: str, allowed: bool, status: CheckStatus, hint: str | None) -> None:
    """Only a password known to be set passes; an empty one may be allowed, an uncheckable one may not."""
    assert world.check("root-password").status is PENDING
    world.root_password(state, allowed)
    assert world.check("root-password").status is status
    assert hint is None or hint in (world.check("root-password").hint or "")


async def test_an_empty_root_password_is_logged_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """It fails from the start, and is logged nevertheless."""
    world.root_password("empty", allowed=False)
    world.root_password("empty", allowed=False)
    assert [r.levelname for r in caplog.records] == ["WARNING"]


# --- replication, events -----------------------------------------------------------------------------------------


def replica(**changes: Any) -> ServerStatus:
    """A replica in sync at the time 1000."""
    sound = ServerStatus(
        role="REPLICA",
        serial=7,
        event_serial=7,
        primary_serial=7,
        update_from_primary_at=990.0,
        replica_in_sync_at=990.0,
        replica_init_queue_finished_at=900.0,
        replication_errors=0,
    )
    return replace(sound, **changes)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, PASS),
        ({"update_from_primary_at": None}, FAIL),
        ({"update_from_primary_at": 930.0, "replica_in_sync_at": 999.0}, FAIL),
        ({"primary_serial": 8}, FAIL),
        ({"primary_serial": None}, FAIL),
        ({"replica_init_queue_finished_at": None}, FAIL),
        ({"replication_errors": 1}, FAIL),
    ],
)
def test_replication_rules(changes: dict[str, Any], status: CheckStatus) -> None:
    """A replica is ready only if it is in sync and its primary answered within the last minute."""
    assert ReplicationJudge().judge(replica(**changes), 1000, PrimaryAnswered()).status is status


@pytest.mark.parametrize(
    ("messages", "count", "said", "hint"),
    [
        (["Not Found"], 1, "1 file could not be replicated, which the primary has lost: p0", "delete the version"),
        (["error on connection"], 1, "1 file could not be replicated: p0", "see this replica's log"),
        (
            ["error", "Not Found", "error"],
            3,
            "3 files could not be replicated, which the primary has lost: p1",
            "delete the version",
        ),
        (
            ["Not Found"] * 5,
            5,
            "5 files could not be replicated, which the primary has lost: p0, p1, p2 and 2 more",
            "delete the version",
        ),
        (["Not Found"] * 100, 100, "at least 100 files could not be replicated", "delete the version"),
        ([], 2, "2 files could not be replicated", "see this replica's log"),
    ],
)
def test_what_a_replica_lacks_is_named(messages: list[str], count: int, said: str, hint: str) -> None:
    """The first three by name, first those that the primary has lost, with a hint for these."""
    files = tuple(Unreplicated(f"p{number}", message == "Not Found") for number, message in enumerate(messages))
    verdict = ReplicationJudge().judge(replica(replication_errors=count, unreplicated=files), 1000, PrimaryAnswered())
    assert verdict.status is FAIL
    assert str(verdict.reason).startswith(said), verdict.reason
    assert hint in str(verdict.hint)


@pytest.mark.parametrize("refusal", [None, "key", "clock", "role", "uuid", "serial", "offline", "other", "unheard of"])
def test_a_refusal_of_the_primary_is_told(refusal: str | None) -> None:
    """It is in the reason before the first update and after a minute without one; a fresh update is not doubted."""
    judge, answered = ReplicationJudge(), PrimaryAnswered(refusal, 418)
    never = judge.judge(replica(update_from_primary_at=None), 1000, answered)
    late = judge.judge(replica(update_from_primary_at=939.0), 1000, answered)
    assert (FAIL, FAIL, PASS) == (never.status, late.status, judge.judge(replica(), 1000, answered).status)
    assert never.reason is not None
    assert (None, "no update from the primary for 61 s") == (never.value, str(late.reason).partition(":")[0])
    assert ("it answers 418" in never.reason) == (refusal in ("other", "unheard of"))
    assert (never.reason == "no update from the primary yet") == (refusal is None)
    assert ("SIDECAR_SECRET_IS_RANDOM" in str(never.hint)) == (refusal == "key")


def test_a_replica_that_was_in_sync_may_be_behind_for_a_minute() -> None:
    """A busy primary is always a serial ahead: that must not make its replica unready."""
    judge = ReplicationJudge()
    assert judge.judge(replica(), 1000, PrimaryAnswered()).status is PASS
    behind = replica(serial=7, primary_serial=9, update_from_primary_at=1059.0)
    assert judge.judge(behind, 1059, PrimaryAnswered()).status is WARN
    assert judge.judge(behind, 1060, PrimaryAnswered()).status is FAIL


async def test_what_keeps_it_from_being_ready_has_a_history(world: World) -> None:
    """Also while it launches; but that devpi-server isn't listening yet is not logged."""
    await world.serve(listening=False)
    await eventually(lambda: "launching: devpi-server has not listened" in (world.check("http").reason or ""))
    world.root_password("empty", allowed=False)
    await eventually(lambda: FAIL in histories(world)["root-password"])
    assert set() == histories(world)["http"]
    await world.devpi.start()
    await eventually(lambda: {PASS} == histories(world)["http"])


def histories(world: World) -> dict[str, set[CheckStatus]]:
    """Return the recorded statuses of each check."""
    return {trend.name: {each.status for each in trend.samples if each} for trend in world.board.history()}


async def test_a_replica_becomes_ready_when_it_is_in_sync(world: World) -> None:
    """Readiness waits for replication."""
    at = time.time()
    world.devpi.status = status_of(role="REPLICA", primary_serial=9, update_from_primary_at=at, replication_errors={})
    await world.serve(role="replica")
    await eventually(lambda: world.devpi.calls.get("/+status"))
    assert ["replication"] == [check.name for check in world.blocking() if check.name not in ("write", "lock")]
    world.devpi.status |= {"serial": 9, "replica-init-queue-finished-at": at}
    await world.ready()
    world.devpi.status |= {"update-from-primary-at": at - 61}
    await world.sees("replication", FAIL)


async def test_a_primary_tells_its_replicas(world: World) -> None:
    """On a primary the check passes, with the number of replicas."""
    world.devpi.status |= {"polling_replicas": {"u": {}}}
    await world.serve(role="primary")
    await world.ready()
    await eventually(lambda: world.check("replication").value == 1)
    assert world.check("replication").status is PASS


async def test_a_slow_status_delays_nothing(world: World) -> None:
    """Readiness doesn't wait for +status, which only warns."""
    world.devpi.status_delay = 60
    await world.serve()
    await world.ready()
    await world.sees("events", WARN)
    assert world.blocking() == ()


EVENTS = ServerStatus(serial=9, event_serial=2, last_commit_timestamp=9_000.0)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"event_serial": 9}, PASS),
        ({"event_serial": None}, WARN),
        ({"last_commit_timestamp": 9_800.0}, PASS),
        ({}, WARN),
        ({"event_serial_in_sync_at": 9_900.0, "event_serial_timestamp": 9_990.0}, PASS),
        ({"event_serial_in_sync_at": 9_900.0, "event_serial_timestamp": 9_690.0}, WARN),
        ({"event_serial_in_sync_at": 9_900.0}, WARN),
        ({"event_serial_in_sync_at": 6_000.0, "event_serial_timestamp": 9_990.0}, WARN),
        ({"primary_serial": 20, "replica_in_sync_at": 9_900.0}, PASS),
    ],
)
def test_event_rules(changes: dict[str, Any], status: CheckStatus) -> None:
    """devpi's own rules for its event processing, at the time 10000."""
    verdict = judge_events(replace(EVENTS, **changes), 10_000)
    assert verdict.status is status
    assert verdict.reason is None or verdict.status is WARN


async def test_events_warn_and_never_gate(world: World) -> None:
    """Events that are behind for long are shown, with the lag."""
    world.devpi.status = status_of(serial=9, event_serial=2, event_serial_timestamp=1.0, event_serial_in_sync_at=1.0)
    await world.serve()
    await world.ready()
    await eventually(lambda: world.check("events").value == 7)
    assert (world.check("events").status, world.check("events").gates) == (WARN, False)
    assert world.blocking() == ()
