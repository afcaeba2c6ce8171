"""`sidecar.worker.mirrors`: what is reported about devpi's mirrors, and how rarely the indexes are read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.devpi.protocol import PACKET_BYTES, Message, MirrorsSeen, encode
from sidecar.worker import mirrors
from sidecar.worker.mirrors import MirrorsWatch

MIRROR: dict[str, object] = {"type": "mirror"}
WITHOUT: dict[str, object] = {"type": "mirror", "mirror_no_project_list": True}


@dataclass
class Devpi:
    """A fake of devpi-server's XOM, to force faults and to count reads; `test_mirror` has real ones."""

    users: dict[str, dict[str, dict[str, object]]] = field(default_factory=dict)
    serial: int = 0
    broken: bool = False
    offline_mode: bool = False
    scans: int = 0
    told: list[Message] = field(default_factory=list)
    retained: set[str] | None = None

    def __post_init__(self) -> None:
        self.keyfs = self.model = self.config = self
        self.watch = MirrorsWatch(self, self.retain, self.told.append)  # type: ignore[arg-type]

    def retain(self, indexes: set[str]) -> None:
        self.retained = indexes

    def change(self, user: str, **indexes: dict[str, object]) -> None:
        """Commit to a user's record."""
        self.serial += 1
        self.users[user] = indexes

    def get_current_serial(self) -> int:
        return self.serial

    @contextlib.contextmanager
    def read_transaction(self) -> Iterator[None]:
        self.scans += 1
        if self.broken:
            raise OSError
        yield

    def get_userlist(self) -> list[Any]:
        return [
            SimpleNamespace(name=name, key=SimpleNamespace(get=lambda indexes=indexes: {"indexes": indexes}))
            for name, indexes in self.users.items()
        ]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Advance the clock to the next look."""
    clock = SimpleNamespace(at=1000.0)
    monkeypatch.setattr(mirrors.time, "monotonic", lambda: clock.at)

    def wait() -> None:
        clock.at += 5.0

    return wait


def test_what_is_told_once_and_when_it_is_another(later: Callable[[], None]) -> None:
    """Mirrors without a list; others and private indexes are not among them."""
    devpi = Devpi()
    devpi.change("root", pypi=MIRROR, dev={"type": "stage"})
    devpi.change("bob", b=WITHOUT, a=WITHOUT)
    for _ in range(3):
        devpi.watch.look()
        later()
    assert [MirrorsSeen(2, ["bob/a", "bob/b"])] == devpi.told
    assert devpi.scans == 1
    devpi.change("root", pypi=WITHOUT)
    devpi.watch.look()
    assert MirrorsSeen(3, ["bob/a", "bob/b", "root/pypi"]) == devpi.told[-1]
    devpi.change("alice")
    later()
    devpi.watch.look()
    assert (2, 3) == (len(devpi.told), devpi.scans)


def test_a_look_waits_its_turn(later: Callable[[], None]) -> None:
    """Many commits don't cause many scans."""
    devpi = Devpi()
    for _ in range(10):
        devpi.change("root", pypi=MIRROR)
        devpi.watch.look()
    assert devpi.scans == 1


def test_a_database_that_fails_is_looked_at_again(later: Callable[[], None]) -> None:
    """Nothing is reported or raised."""
    devpi = Devpi(broken=True)
    devpi.change("root", pypi=WITHOUT)
    devpi.watch.look()
    assert [] == devpi.told
    devpi.broken = False
    later()
    devpi.watch.look()
    assert [MirrorsSeen(1, ["root/pypi"])] == devpi.told


def test_offline_there_is_nothing_to_say() -> None:
    """Mirrors request nothing from their upstream then."""
    devpi = Devpi(offline_mode=True)
    devpi.change("root", pypi=MIRROR)
    devpi.watch.look()
    assert (0, []) == (devpi.scans, devpi.told)


def test_many_long_names_fit_into_a_packet() -> None:
    """They are counted; only the first ones are named, and cut."""
    devpi = Devpi()
    devpi.change("u", **{f"{number:04d}{'é' * 5000}": WITHOUT for number in range(500)})
    devpi.watch.look()
    (seen,) = devpi.told
    assert isinstance(seen, MirrorsSeen)
    assert (500, 20) == (seen.without, len(seen.without_names))
    assert len(encode(seen)) < PACKET_BYTES
