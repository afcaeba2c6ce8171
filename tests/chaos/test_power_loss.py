"""The power fails: any part of what was not synced is lost, but no state is partial, and no unwanted login works.

All steps of a life on the serverdir are recorded, including SQLite's, and replayed on a model of a disk (`disk.Disk`).
After every step the power fails, in five ways. The sidecar's own recovery is run on each resulting state, and root's
password, the uploads and the import are compared with what clients had been told by then; a sample is really started.

A test proves that the recording is complete: replayed to its end, it gives the real directory, byte by byte.

What it can't show: a disk or a hypervisor that falsely reports "synced"; bit rot; modes and owners (everything is
private from the beginning); file systems without a journal, where a rename is not atomic. A file system that guarantees
more than POSIX (ext4 and XFS order more) leaves the same states or fewer.
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from devpi_server.fileutil import loads

from sidecar.core.errors import Exit
from sidecar.storage.inspection import Content, Storage
from sidecar.storage.serverdir import Serverdir
from tests.chaos import disk, invariants, life, steps
from tests.chaos.invariants import expect
from tests.chaos.life import IMPORTS, STORIES, Violation
from tests.chaos.workshop import Workshop
from tests.support.container import Container, cleared_away

pytestmark = pytest.mark.chaos

STARTS = 4
"""States of each life, beside those of its end, that are really started."""


@dataclass(frozen=True)
class Event:
    """From this byte of the trace on, clients had been told that this is root's password."""

    at: int
    password: str


@dataclass(frozen=True)
class Recording:
    """One life with all its steps, and when clients were told what."""

    root: Path
    before: Path | None
    trace: Path
    told: list[Event]
    asked: list[int]
    """Bytes of the trace from which on a claim or a rotation was requested."""
    files: list[tuple[int, str, bytes]]
    """Acknowledged uploads: from which byte of the trace on, the file's name, its content."""
    life: str

    @property
    def adopted(self) -> bool:
        """It began with a state that was not made here."""
        return self.life == "adopted"

    @property
    def began_empty(self) -> bool:
        """There was no state before: nothing, or the remains of an earlier run in our own folder."""
        return self.before is None or {path.name for path in self.before.iterdir()} == {".sidecar"}


def record(workshop: Workshop, life_name: str) -> Recording:
    """Live a life, and note the length of the trace at each answer."""
    container, told = workshop.begin(life_name)
    before = container.home / "before"
    if container.serverdir.exists():
        disk.write(disk.real(container.serverdir), before)
    trace = container.home / "trace"
    steps.watch(container, workshop.library, trace=trace)
    events: list[Event] = []
    asked: list[int] = []
    files: list[tuple[int, str, bytes]] = []
    with cleared_away(container):
        for act in STORIES[life_name]:
            if act in ("claim", "rotate"):
                asked.append(trace.stat().st_size)
            password = told.password
            life.ACTS[act](container, told)
            if told.password != password:
                assert told.password is not None
                events.append(Event(trace.stat().st_size, told.password))
            if act == "upload":
                name, content = list(told.files.items())[-1]
                files.append((trace.stat().st_size, f"{name}-1.0.tar.gz", content))
    return Recording(container.serverdir, before if before.exists() else None, trace, events, asked, files, life_name)


@pytest.fixture(scope="module", params=sorted(STORIES))
def recording(workshop: Workshop, request: pytest.FixtureRequest) -> Recording:
    """A recorded life."""
    return record(workshop, request.param)


def of_the_serverdir(recording: Recording) -> Iterator[tuple[int, steps.Step]]:
    """Return its steps in the serverdir, and the byte of the trace where each ends."""
    for end, step in steps.read(recording.trace):
        if recording.root in (step.path, *step.path.parents):
            yield end, step


def test_the_recording_is_whole(recording: Recording) -> None:
    """Every write was seen: replayed, it is the real directory."""
    replayed = disk.Disk(recording.root, recording.before)
    for _, step in of_the_serverdir(recording):
        replayed.apply(step)
    got = replayed.after_power_cut("everything", random.Random(0))
    want = disk.real(recording.root)
    assert got.keys() == want.keys()
    assert [name for name in want if got[name] != want[name]] == []


def test_every_power_cut_leaves_a_whole_state_or_none(
    recording: Recording, workshop: Workshop, seed: int, tmp_path: Path
) -> None:
    """After every step, in every variant: recovery understands the disk, and root's password is what was told."""
    chance = random.Random(seed)
    replayed = disk.Disk(recording.root, recording.before)
    seen: set[str] = set()
    states: list[tuple[str, dict[str, bytes | None], int]] = []
    problems: list[str] = []
    for number, (end, step) in enumerate(of_the_serverdir(recording)):
        replayed.apply(step)
        for variant in disk.VARIANTS:
            found = replayed.after_power_cut(variant, chance)
            name = f"{disk.digest(found)} {so_far(recording, end)} {sum(at <= end for at, _, _ in recording.files)}"
            if name in seen:
                continue
            seen.add(name)
            where = f"after step {number}, {step.process} {step.name}, {variant}"
            path = tmp_path / f"{len(seen)}"
            disk.write(found, path)
            try:
                look(path, recording, end)
                states.append((where, found, end))
            except Violation as violation:
                problems.append(f"{where}: {violation}")
            shutil.rmtree(path)
    assert len(seen) > 100
    assert not problems, f"{len(problems)} of {len(seen)} states, seed {seed}:\n" + "\n".join(problems)

    last = [state for state in states if state[2] == states[-1][2]]  # for the end, all that it may leave
    sample = last + chance.sample(states, STARTS)
    with ThreadPoolExecutor(2) as pool:
        started = [
            pool.submit(start, workshop, tmp_path / f"start-{number}", found, recording, end, where)
            for number, (where, found, end) in enumerate(sample)
        ]
    for each in started:
        each.result()


def start(
    workshop: Workshop, home: Path, found: dict[str, bytes | None], recording: Recording, end: int, where: str
) -> None:
    """Really start what a power cut left; only clients that were told root's password can log in."""
    container = Container(home)
    if recording.life in IMPORTS:
        workshop.give_archive(container)
    disk.write(found, container.serverdir)
    told, asking = so_far(recording, end)
    with cleared_away(container):
        container.start().wait_ready()
        assert container.login("root", "") == 401, where
        state = container.status()["root_password"]["state"]
        if told and not asking:
            assert container.login("root", told[-1]) == 200, where
        elif state == "claimable":
            assert container.login("root", container.claim()) == 200, where
        else:
            assert asking or recording.adopted or (state, recording.life) == ("expired", "expires"), (where, state)
        if recording.life in IMPORTS:
            invariants.imported(container)
        assert container.stop() == 0
    there = {path.name: path.read_bytes() for path in (container.serverdir / "+files").rglob("*") if path.is_file()}
    assert acknowledged(recording, end).items() <= there.items(), where
    assert not [name for name in there if name.endswith("-tmp")], where


def look(path: Path, recording: Recording, end: int) -> None:
    """Raise Violation for a state that must not exist after a power cut at this byte of the trace."""
    told, asking = so_far(recording, end)
    serverdir = Serverdir(path, Storage("sqlite"))
    try:
        with contextlib.ExitStack() as held:
            serverdir.open()
            held.callback(serverdir.lock.release)
            serverdir.recover()
            content = serverdir.examine()
            after_kill = serverdir.begin_serving()
    except Exit as refusal:
        raise Violation(f"it refuses to start: {refusal.reason}") from refusal
    if content is Content.EMPTY:
        expect(not told and recording.began_empty, "it is empty, but was not before")
        return
    uploads(path, acknowledged(recording, end), after_kill)
    if recording.life in IMPORTS:
        imported(path)
    expect(content is Content.OURS or (recording.adopted and not told), "it holds a state without the marker")
    origin = json.loads((serverdir.own / "marker.json").read_text())["origin"] if content is Content.OURS else None
    strange = origin == "initialised" and (serverdir.own / "import.json").exists()
    expect(not strange, "an initialised state has the record of an import")
    record = serverdir.own / "root-password.json"
    expect(record.exists() or (recording.adopted and not told), "there is no record of root's password")
    if not record.exists():
        return
    known = json.loads(record.read_text())
    root_hash = hash_of_root(path / ".sqlite")
    if known["state"] == "claimable":
        expect(asking or not told, "a password can be claimed, but one was told already")
        expect(verified(known["password"], root_hash), "the claimable password is not root's")
    elif known["state"] != "expired" or recording.life != "expires":
        expect(told or asking, f"the password counts as {known['state']}, but was never requested")
    if told and not asking:
        expect(known["state"] == "claimed", f"after a completed change, the password is {known['state']}")
        expect(verified(told[-1], root_hash), "the password that was told is not root's")


def acknowledged(recording: Recording, end: int) -> dict[str, bytes]:
    """Return the uploads acknowledged at this byte of the trace: content by file name."""
    return {name: content for at, name, content in recording.files if at <= end}


def imported(serverdir: Path) -> None:
    """Check that every wheel of the archive is in the database, and in `+files` under its name, by digest."""
    keys = keys_of_files(serverdir)
    for name, content in life.imported_files().items():
        found = [serverdir / "+files" / key for key in keys if key.endswith(f"/{name}")]
        expect(len(found) == 1, f"the database contains the imported {name} {len(found)} times")
        there = sha256(found[0].read_bytes()).hexdigest() if found[0].is_file() else "nothing"
        expect(there == sha256(content).hexdigest(), f"the imported {name} has the digest {there}")


def keys_of_files(serverdir: Path) -> list[str]:
    """Return the files of all indexes by their paths in `+files`, from devpi's database."""
    with contextlib.closing(sqlite3.connect(serverdir / ".sqlite")) as connection:
        return [key for (key,) in connection.execute("SELECT key FROM kv WHERE keyname = 'STAGEFILE'")]


def uploads(serverdir: Path, wanted: dict[str, bytes], after_kill: bool) -> None:
    """Check that every upload is committed, under its name or, for a start after a kill, its temporary name."""
    keys = keys_of_files(serverdir)
    for name, content in wanted.items():
        found = [serverdir / "+files" / key for key in keys if key.endswith(f"/{name}")]
        expect(found, f"the acknowledged upload {name} is not in the database")
        there = [found[0]] if found[0].exists() else list(found[0].parent.glob(f"{name}-*-tmp"))
        expect(
            [path.read_bytes() == content for path in there] == [True],
            f"the acknowledged upload {name} is lost: {[path.stat().st_size for path in there]} bytes",
        )
        expect(there == found[:1] or after_kill, f"no start will complete the acknowledged upload {name}")


def so_far(recording: Recording, end: int) -> tuple[list[str], bool]:
    """Return the passwords told at this byte of the trace, and whether another one was requested."""
    told = [event.password for event in recording.told if event.at <= end]
    return told, sum(at <= end for at in recording.asked) > len(told)


@functools.cache
def verified(password: str, root_hash: str) -> bool:
    """Whether it is the hash of the password."""
    try:
        return PasswordHasher().verify(root_hash, password)
    except VerifyMismatchError:
        return False


def hash_of_root(database: Path) -> str:
    """Return root's password hash in devpi's database."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        (serial,) = connection.execute("SELECT serial FROM kv WHERE key = 'root/.config'").fetchone()
        (data,) = connection.execute("SELECT data FROM changelog WHERE serial = ?", (serial,)).fetchone()
    changes, _ = loads(data)
    return str(changes["root/.config"][2]["pwhash"])
