"""`sidecar.worker.contents`: what is counted in devpi's database, how rarely it is read, and in what slices."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.devpi.protocol import ContentsSeen, Message
from sidecar.worker import contents
from sidecar.worker.contents import ContentsWatch

MIRROR: dict[str, object] = {"type": "mirror"}
STAGE: dict[str, object] = {"type": "stage"}
NOTHING = ContentsSeen(None, None, None, None)


@dataclass
class Devpi:
    """A fake of devpi-server's XOM, to force faults and to count reads; `test_numbers` has a real one."""

    commits: list[dict[str, Any]] = field(default_factory=list)
    broken: bool = False
    read: list[int] = field(default_factory=list)
    """The serials of the commits that were read."""
    told: list[Message] = field(default_factory=list)
    while_reading: Callable[[], None] = lambda: None
    """Called while a commit is read."""

    def __post_init__(self) -> None:
        self.keyfs = self
        self.USERLIST = SimpleNamespace(name="USERLIST", relpath=".config")
        self.watch = ContentsWatch(self, self.told.append)  # type: ignore[arg-type]

    def USER(self, user: str) -> Any:
        return SimpleNamespace(name="USER", relpath=f"{user}/.config")

    def PROJNAMES(self, user: str, index: str) -> Any:
        return SimpleNamespace(name="PROJNAMES", relpath=f"{user}/{index}/.projects")

    @contextlib.contextmanager
    def get_connection(self) -> Iterator[Devpi]:
        if self.broken:
            raise OSError
        yield self

    def db_read_last_changelog_serial(self) -> int:
        return len(self.commits) - 1

    def db_read_typedkey(self, relpath: str) -> tuple[str, int]:
        for serial in reversed(range(len(self.commits))):
            if relpath in self.commits[serial]:
                return "", serial
        raise KeyError(relpath)

    def get_raw_changelog_entry(self, serial: int) -> int:
        self.read.append(serial)
        self.while_reading()
        return serial

    def loads(self, serial: int) -> tuple[dict[str, Any], None]:
        return {relpath: ("", -1, value) for relpath, value in self.commits[serial].items()}, None


@pytest.fixture
def devpi(monkeypatch: pytest.MonkeyPatch) -> Devpi:
    """Two users with a stage each, one of them empty, and a mirror, in three commits."""
    made = Devpi()
    monkeypatch.setattr(contents, "loads", made.loads)
    made.commits += [
        {".config": {"root", "bob"}, "root/.config": {"indexes": {"pypi": MIRROR}}},
        {"bob/.config": {"indexes": {"dev": STAGE, "prod": STAGE}}},
        {"bob/dev/.projects": {"a", "b", "c"}},
    ]
    return made


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Advance the clock."""
    clock = SimpleNamespace(at=1000.0)
    monkeypatch.setattr(contents.time, "monotonic", lambda: clock.at)

    def wait(seconds: float = 5) -> None:
        clock.at += seconds

    return wait


def test_what_is_told_once_and_when_it_is_another(devpi: Devpi, later: Callable[..., None]) -> None:
    """Users, stages, mirrors, projects; without a change nothing is read, and a mirror's projects never are."""
    for _ in range(3):
        devpi.watch.look()
        later()
    assert [ContentsSeen(2, 2, 1, 3)] == devpi.told
    read = len(devpi.read)
    devpi.commits.append({"bob/dev/.projects": {"a"}, "bob/prod/.projects": None})
    devpi.watch.look()
    later()
    assert ContentsSeen(2, 2, 1, 1) == devpi.told[-1]
    assert len(devpi.read) > read
    devpi.commits.append({"root/pypi/.projects": {"x", "y"}})
    devpi.watch.look()
    later()
    devpi.commits.append({".config": {"root"}, "bob/.config": None})
    devpi.watch.look()
    assert [ContentsSeen(1, 0, 1, 0)] == devpi.told[2:]


def test_a_crowd_of_changes_is_counted_rarely(devpi: Devpi, later: Callable[..., None]) -> None:
    """At most every 5 s."""
    devpi.watch.look()
    read = len(devpi.read)
    for _ in range(4):
        later(1)
        devpi.commits.append({})
        devpi.watch.look()
    assert read == len(devpi.read)
    later(1)
    devpi.watch.look()
    assert read < len(devpi.read)


def test_much_is_counted_in_slices(devpi: Devpi, monkeypatch: pytest.MonkeyPatch, later: Callable[..., None]) -> None:
    """A look ends with its slice; a commit of an import is read once, not once for each user."""
    users = {f"u{number}": {"indexes": {"dev": STAGE}} for number in range(1000)}
    devpi.commits = [
        {".config": set(users)} | {f"{name}/.config": record for name, record in users.items()},
        {f"{name}/dev/.projects": {"p"} for name in users},
    ]
    monkeypatch.setattr(contents, "_SLICE", -1.0)  # each step exceeds the slice
    devpi.while_reading = lambda: later(0.5)
    looks = 0
    while not devpi.told:
        devpi.watch.look()
        looks += 1
    assert 2000 <= looks <= 2002
    assert [ContentsSeen(1000, 1000, 0, 1000)] == devpi.told
    assert [0, 0, 1] == devpi.read  # the list of users, a user, an index
    devpi.commits.append({})
    later(74)
    devpi.watch.look()
    assert 3 == len(devpi.read)  # after 1.5 s of reading, 75 s of pause: a fiftieth of a core
    later(2)
    devpi.watch.look()
    assert 3 < len(devpi.read)


def test_what_fails_is_not_known(devpi: Devpi, later: Callable[..., None]) -> None:
    """One or two failures change nothing; the third makes all numbers unknown, until the next complete count."""
    devpi.watch.look()
    devpi.broken = True
    for _ in range(5):
        later()
        devpi.watch.look()
    assert [ContentsSeen(2, 2, 1, 3), NOTHING] == devpi.told
    devpi.broken = False
    later()
    devpi.watch.look()
    assert [ContentsSeen(2, 2, 1, 3)] == devpi.told[2:]
