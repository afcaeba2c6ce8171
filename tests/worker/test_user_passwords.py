"""`sidecar.worker.user_passwords`: what is reported about devpi's users, and how rarely they are read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.devpi.protocol import PACKET_BYTES, Message, RootPasswordSeen, UnusableSeen, encode
from sidecar.worker import passwords, user_passwords
from sidecar.worker.passwords import RootPassword, digest
from sidecar.worker.user_passwords import UsersWatch

USABLE = {"pwhash": "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$zL2j6VSjJKz0Sj5GL1rhtxu2dZzdrCRos/qoJ13bpBE"}
SHA256 = {"pwhash": "6a" * 32, "pwsalt": "salt"}


class Broken(Exception):
    """An error that devpi raises if its database fails."""


@dataclass
class Devpi:
    """A fake of devpi-server's XOM, to force faults and to count reads; `test_old_states` has real ones."""

    users: dict[str, dict[str, object]] = field(default_factory=lambda: {"root": USABLE})
    serials: dict[str, int] = field(default_factory=lambda: {"root/.config": 0})
    serial: int = 0
    broken: bool = False
    replica: bool = False
    read: list[str] = field(default_factory=list)
    root: str = "set"
    told: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keyfs = self.model = self
        self.watch = UsersWatch(self, self.look_at_root, "set", self.told.append)  # type: ignore[arg-type]

    def look_at_root(self) -> str:
        self.read.append("root")
        if self.broken:
            raise Broken
        return self.root

    def is_replica(self) -> bool:
        return self.replica

    def change(self, name: str, **record: object) -> None:
        """Commit to a user's record."""
        self.serial += 1
        self.users[name] = record
        self.serials[f"{name}/.config"] = self.serial

    @contextlib.contextmanager
    def get_connection(self) -> Iterator[Devpi]:
        if self.broken:
            raise Broken
        yield self

    def db_read_typedkey(self, relpath: str) -> tuple[str, int]:
        return "USER", self.serials[relpath]

    def USER(self, user: str) -> Any:
        return SimpleNamespace(relpath=f"{user}/.config")

    def get_current_serial(self) -> int:
        return self.serial

    @contextlib.contextmanager
    def read_transaction(self) -> Iterator[Any]:
        if self.broken:
            raise Broken
        yield SimpleNamespace(at_serial=self.serial)

    def _user(self, name: str) -> Any:
        def get() -> dict[str, object]:
            self.read.append(name)
            return self.users[name]

        return SimpleNamespace(name=name, key=SimpleNamespace(get=get))

    def get_userlist(self) -> list[Any]:
        return [self._user(name) for name in self.users]

    def get_user(self, name: str) -> Any:
        return self._user(name) if name in self.users else None


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Advance the clock."""
    clock = SimpleNamespace(at=1000.0)
    monkeypatch.setattr(user_passwords.time, "monotonic", lambda: clock.at)

    def wait(seconds: float) -> None:
        clock.at += seconds

    return wait


# --- root's password --------------------------------------------------------------------------------------------------


def test_roots_record_is_read_when_it_has_changed() -> None:
    """And a state is reported once."""
    devpi = Devpi()
    for _ in range(5):
        devpi.watch.look_at_root()
    assert (["root"], []) == (devpi.read, devpi.told)
    devpi.change("root", **USABLE)
    devpi.root = "empty"
    for _ in range(5):
        devpi.watch.look_at_root()
    assert (["root"] * 2, [RootPasswordSeen("empty")]) == (devpi.read, devpi.told)


def test_after_a_change_of_ours_it_is_told_again() -> None:
    """The sidecar waits for that report before its answer; the state may be the same as before."""
    devpi = Devpi()
    devpi.watch.look_at_root()
    devpi.watch.root_was_changed()
    devpi.watch.look_at_root()
    devpi.watch.look_at_root()
    assert [RootPasswordSeen("set")] == devpi.told


@pytest.mark.parametrize("state", ["unchecked", "unseen"])
def test_what_cant_be_told_is_looked_at_again(state: str) -> None:
    """Even if the record is the same: argon2 may be able to run now."""
    devpi = Devpi(root=state)
    for _ in range(3):
        devpi.watch.look_at_root()
    assert (["root"] * 3, [RootPasswordSeen(state)]) == (devpi.read, devpi.told)
    devpi.root = "set"
    devpi.watch.look_at_root()
    assert [RootPasswordSeen(state), RootPasswordSeen("set")] == devpi.told


def test_a_database_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """One failure changes nothing; the third in a row makes the state unknown. One traceback."""
    devpi = Devpi()
    devpi.watch.look_at_root()
    devpi.broken = True
    devpi.watch.look()
    devpi.watch.look()
    assert [] == devpi.told
    devpi.watch.look()
    devpi.watch.look()
    assert [RootPasswordSeen("unseen")] == devpi.told
    devpi.broken = False
    devpi.watch.look_at_root()
    assert [RootPasswordSeen("unseen"), RootPasswordSeen("set")] == devpi.told
    devpi.broken = True
    devpi.watch.look_at_root()
    assert RootPasswordSeen("set") == devpi.told[-1]


def test_no_root() -> None:
    """Deleted, or never created: the state shows it."""
    devpi = Devpi(serials={}, root="absent")
    devpi.watch.look_at_root()
    assert [RootPasswordSeen("absent")] == devpi.told


def test_a_replica_is_left_alone() -> None:
    """Its users are the primary's."""
    devpi = Devpi(replica=True, users={"alice": SHA256})
    devpi.watch.look()
    assert ([], []) == (devpi.read, devpi.told)


def test_argon2_runs_once_for_a_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's record changes with each of its indexes; a hash that the last start found good is not checked."""
    tried: list[str] = []

    def is_hash_of_empty(pwhash: str, pwsalt: str | None) -> bool:
        tried.append(pwhash)
        return pwhash == empty

    monkeypatch.setattr(passwords, "is_hash_of_empty", is_hash_of_empty)
    known, empty = USABLE["pwhash"], USABLE["pwhash"].replace("zL2", "eX2")
    root = RootPassword(Devpi(), digest(known))  # type: ignore[arg-type]
    for pwhash, state in [(known, "set"), (empty, "empty"), (empty, "empty"), (known, "set"), (known, "set")]:
        monkeypatch.setattr(root, "_hash", lambda found=pwhash: (found, None))
        assert state == root.state()[0]
    assert [empty, known] == tried
    for pwhash, pwsalt in [("6a" * 32, "salt"), ("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ", None)]:
        monkeypatch.setattr(root, "_hash", lambda found=(pwhash, pwsalt): found)
        assert "unusable" == root.state()[0]
    assert [empty, known] == tried


# --- the others -------------------------------------------------------------------------------------------------------


def test_all_are_read_once_and_then_who_was_found(now: Callable[[float], None]) -> None:
    """And these after each change, until there are none."""
    devpi = Devpi(users={"root": SHA256, "alice": SHA256, "bob": USABLE, "carol": {"pwhash": ""}, "dave": {}})
    devpi.change("eve", **SHA256)
    devpi.watch.look()
    assert [UnusableSeen(2, ["alice", "eve"])] == devpi.told
    devpi.read.clear()
    for _ in range(10):
        now(100)
        devpi.watch.look()
    assert [] == devpi.read

    devpi.change("alice", **USABLE)
    now(100)
    devpi.watch.look()
    assert UnusableSeen(1, ["eve"]) == devpi.told[-1]
    assert {"alice", "eve"} == set(devpi.read)

    del devpi.users["eve"]
    devpi.serial += 1
    now(100)
    devpi.watch.look()
    assert UnusableSeen(0, []) == devpi.told[-1]
    devpi.read.clear()
    devpi.change("bob", **SHA256)
    now(100)
    devpi.watch.look()
    assert [] == devpi.read


def test_nobody_is_told_too(now: Callable[[float], None]) -> None:
    """So that the sidecar knows that the scan has been done."""
    devpi = Devpi()
    devpi.watch.look()
    now(100)
    devpi.watch.look()
    assert [UnusableSeen(0, [])] == devpi.told


def test_many_are_counted(now: Callable[[float], None]) -> None:
    """The first are named, cut to a length, and the message fits into a packet with any names."""
    devpi = Devpi(users={f"{n:04}" + "\U0001f984" * 5000: SHA256 for n in range(1000)})
    devpi.watch.look()
    (seen,) = devpi.told
    assert isinstance(seen, UnusableSeen)
    assert (1000, 20, 200) == (seen.total, len(seen.users), len(seen.users[0]))
    assert sorted(seen.users) == seen.users
    assert len(encode(seen)) < PACKET_BYTES


def test_scans_take_a_small_share_of_time(now: Callable[[float], None]) -> None:
    """Constant changes don't cause constant scans."""
    devpi = Devpi(users={"alice": SHA256})
    devpi.watch.look()
    for _ in range(50):
        devpi.serial += 1
        now(0.1)
        devpi.watch.look()
    assert 1 <= devpi.read.count("alice") <= 2


def test_a_scan_that_fails_is_tried_again(now: Callable[[float], None]) -> None:
    """Nothing is reported until a scan succeeds."""
    devpi = Devpi(users={"alice": SHA256}, broken=True)
    devpi.watch.look()
    assert [] == [each for each in devpi.told if isinstance(each, UnusableSeen)]
    devpi.broken = False
    now(100)
    devpi.watch.look()
    assert UnusableSeen(1, ["alice"]) in devpi.told
