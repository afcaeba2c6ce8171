"""`sidecar.worker.shared_checks`: one run for equal checks, a minute's cache of matches, and waitress's threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from waitress.task import ThreadedTaskDispatcher

from sidecar.worker.shared_checks import KNOWN_SECONDS, MOST_KNOWN, MOST_WAITING, WAITING, Full, SharedChecks, Threads
from sidecar.worker.verification import CannotTell

PATIENCE = 20.0
HASH = "hash"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Checker:
    """A fake of argon2 that can block or fail: `right` is the only right password."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.time = 1000.0
        self.error: Exception | None = None
        self.threads = Threads()
        self.checks = SharedChecks(self._matches, self.threads, lambda: self.time)

    def _matches(self, password: str, pwhash: str, pwsalt: str | None) -> bool:
        self.runs.append(password)
        assert self.go_on.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        return password == "right"

    def check(self, password: str, pwhash: str = HASH, pwsalt: str | None = None, user: str = "alice") -> bool:
        return self.checks.matches(user, password, pwhash, pwsalt)


@pytest.fixture
def checker() -> Iterator[Checker]:
    checker = Checker()
    yield checker
    checker.go_on.set()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2 * MOST_WAITING) as pool:
        yield pool


def all_wait(checker: Checker, pool: ThreadPoolExecutor, passwords: list[str]) -> list[Future[bool]]:
    """This many requests that wait, with the first one's run blocked."""
    checker.go_on.clear()
    before = checker.checks._waiting
    asked = [pool.submit(checker.check, password) for password in passwords]
    wait_until(lambda: checker.checks._waiting == before + len(passwords))
    return asked


@pytest.mark.parametrize(("password", "matches"), [("right", True), ("wrong", False)])
def test_equal_ones_share_a_run(checker: Checker, pool: ThreadPoolExecutor, password: str, matches: bool) -> None:
    """Fifty at once share one run, whatever its result."""
    asked = all_wait(checker, pool, [password] * 50)
    checker.go_on.set()
    assert {matches} == {each.result(PATIENCE) for each in asked}
    assert [password] == checker.runs


def test_only_a_match_is_known_afterwards(checker: Checker) -> None:
    """A wrong password is checked each time."""
    assert [True, True, False, False] == [checker.check(password) for password in ("right", "right", "wrong", "wrong")]
    assert ["right", "wrong", "wrong"] == checker.runs


def test_it_is_known_for_a_minute_however_often_it_comes(checker: Checker) -> None:
    """The minute begins with the check."""
    for seconds in (0.0, KNOWN_SECONDS / 2, KNOWN_SECONDS / 2 - 1):
        checker.time += seconds
        assert checker.check("right")
    assert 1 == len(checker.runs)
    checker.time += 1
    assert checker.check("right")
    assert 2 == len(checker.runs)


def test_so_many_are_known_and_no_more(checker: Checker) -> None:
    """A new one replaces the oldest; expired ones are removed with the next one."""
    for number in range(MOST_KNOWN + 1):
        checker.check("right", f"hash {number}")
    assert MOST_KNOWN == len(checker.checks._known)
    checker.check("right", "hash 1")
    assert MOST_KNOWN + 1 == len(checker.runs)
    checker.check("right", "hash 0")
    assert MOST_KNOWN + 2 == len(checker.runs)
    checker.time += KNOWN_SECONDS
    checker.check("right")
    assert 1 == len(checker.checks._known)


@pytest.mark.parametrize(
    "other",
    [
        {"user": "bob"},
        {"pwhash": "another hash"},
        {"pwsalt": "salt"},
        {"pwsalt": ""},
        {"user": "alic", "password": "eright"},
        {"password": "righ", "pwhash": "thash"},
        {"password": "\udcff"},
    ],
)
def test_what_differs_is_not_equal(checker: Checker, other: dict[str, str]) -> None:
    """Whatever user, password, hash and salt look like when concatenated."""
    assert checker.check("right")
    checker.check(**({"password": "right"} | other))
    assert 2 == len(checker.runs)


def test_nothing_of_a_password_is_kept(checker: Checker) -> None:
    """Only digests, with a key that no other process has."""
    checker.check("right")
    (name,) = checker.checks._known
    assert 32 == len(name)
    other = Checker()
    other.check("right")
    assert name not in other.checks._known


def test_what_cannot_be_told_is_told_to_nobody_and_forgotten(checker: Checker, pool: ThreadPoolExecutor) -> None:
    """All waiting requests get the error, and the next one runs the check again."""
    checker.error = CannotTell("Threading failure")
    asked = all_wait(checker, pool, ["right"] * 5)
    checker.go_on.set()
    for each in asked:
        with pytest.raises(CannotTell):
            each.result(PATIENCE)
    checker.error = None
    assert checker.check("right")
    assert 2 == len(checker.runs)


def test_different_ones_are_turned_away_when_many_wait(checker: Checker, pool: ThreadPoolExecutor) -> None:
    """At once; a cached one still passes, and one that equals a waiting one waits with it."""
    checker.check("right")
    asked = all_wait(checker, pool, [str(number) for number in range(WAITING + 1)])
    with pytest.raises(Full):
        checker.check("one too many")
    assert checker.check("right")
    asked += all_wait(checker, pool, ["0"])
    checker.go_on.set()
    assert {False} == {each.result(PATIENCE) for each in asked}
    assert not checker.check("one too many")


class Slow:
    """A request for one of waitress's threads, which waits."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.service = work

    def cancel(self) -> None:
        """Not started."""


@pytest.fixture
def dispatcher() -> Iterator[ThreadedTaskDispatcher]:
    dispatcher = ThreadedTaskDispatcher()
    dispatcher.set_thread_count(4)
    yield dispatcher
    assert dispatcher.shutdown()


def test_those_who_wait_are_half_of_the_threads(checker: Checker, dispatcher: ThreadedTaskDispatcher) -> None:
    """Threads are added while more wait, so that other requests are answered; later there are as many as before."""
    checker.threads.are_of(dispatcher)
    checker.go_on.clear()
    for _ in range(20):
        dispatcher.add_task(Slow(lambda: checker.check("wrong")))
    wait_until(lambda: checker.checks._waiting == 20)
    assert 40 == len(dispatcher.threads)
    answered = threading.Event()
    dispatcher.add_task(Slow(answered.set))
    assert answered.wait(PATIENCE)
    checker.go_on.set()
    wait_until(lambda: len(dispatcher.threads) == 4)
    assert ["wrong"] == checker.runs


def test_where_there_is_no_thread_it_is_full(
    checker: Checker, dispatcher: ThreadedTaskDispatcher, monkeypatch: pytest.MonkeyPatch, pool: ThreadPoolExecutor
) -> None:
    """At the kernel's limit of processes, half of the existing threads may wait, and it recovers."""
    checker.threads.are_of(dispatcher)

    def start(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(dispatcher, "start_new_thread", start)
        asked = all_wait(checker, pool, ["wrong"] * 2)
        with pytest.raises(Full):
            checker.check("wrong")
        assert 4 == len(dispatcher.threads)
    asked += all_wait(checker, pool, ["wrong"])
    assert 6 == len(dispatcher.threads)
    checker.go_on.set()
    assert {False} == {each.result(PATIENCE) for each in asked}
    wait_until(lambda: len(dispatcher.threads) == 4)


def test_so_many_wait_and_no_more(checker: Checker, pool: ThreadPoolExecutor) -> None:
    """Even if they are equal."""
    asked = all_wait(checker, pool, ["wrong"] * MOST_WAITING)
    with pytest.raises(Full):
        checker.check("wrong")
    checker.go_on.set()
    assert {False} == {each.result(PATIENCE) for each in asked}


def test_who_can_only_be_turned_away_is_known_without_the_hash(checker: Checker, pool: ThreadPoolExecutor) -> None:
    """With a full queue: all but those whose user and password wait already or are cached."""
    checker.check("right")
    all_wait(checker, pool, [str(number) for number in range(WAITING)])
    checker.checks.admit("alice", "another")  # one place is left
    all_wait(checker, pool, ["last"])
    for password in ("right", "0", "last"):
        checker.checks.admit("alice", password)
    for user, password in (("alice", "another"), ("bob", "0"), ("bob", "right")):
        with pytest.raises(Full):
            checker.checks.admit(user, password)
    checker.time += KNOWN_SECONDS
    with pytest.raises(Full):
        checker.checks.admit("alice", "right")
    checker.go_on.set()
