"""`sidecar.worker.patches.hashing`: argon2 runs once at a time, whatever uses it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import argon2
import pytest
from devpi_server import auth
from devpi_server.config import Config, get_pluginmanager, parseoptions
from passlib.context import CryptContext

from sidecar.worker import verification
from sidecar.worker.fifo_lock import FifoLock
from sidecar.worker.patches.hashing import one_at_a_time

pytestmark = pytest.mark.filterwarnings("ignore:Accessing argon2.__version__:DeprecationWarning")  # passlib does


class Runs:
    """Counts argon2's runs, and the maximum of concurrent ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = self.most = self.all = 0

    def counted(self, run: Any) -> Any:
        def counting(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                self.all += 1
                self.now += 1
                self.most = max(self.most, self.now)
            try:
                time.sleep(0.002)  # releases the GIL, as argon2 does, so that other threads proceed
                return run(*arguments, **options)
            finally:
                with self._lock:
                    self.now -= 1

        return counting


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Count argon2's runs; hash passwords cheaply, by another context."""
    runs = Runs()
    for name in ("hash_secret", "verify_secret", "hash_secret_raw"):
        monkeypatch.setattr(argon2.low_level, name, runs.counted(getattr(argon2.low_level, name)))
    monkeypatch.setattr(verification, "matches", runs.counted(verification.matches))
    monkeypatch.setattr(argon2.low_level, "error_to_str", argon2.low_level.error_to_str)
    cheap = CryptContext(["argon2"], argon2__memory_cost=64, argon2__rounds=1, argon2__parallelism=1)
    monkeypatch.setattr(auth, "pwd_context", cheap)
    monkeypatch.setattr(Config, "get_derived_key", Config.get_derived_key)
    return runs


def config_of(folder: Path) -> Config:
    """Return a devpi-server configuration that derives keys with little memory."""
    (folder / "secret").write_text("fedcba9876543210" * 4)
    (folder / "secret").chmod(0o600)
    cheap = ("--argon2-memory-cost", "8", "--argon2-time-cost", "1", "--argon2-parallelism", "1")
    argv = ["devpi-server", "--serverdir", str(folder), "--secretfile", str(folder / "secret"), *cheap]
    return parseoptions(get_pluginmanager(), argv)


def hash_check_and_derive(config: Config) -> None:
    """Do once what devpi does in its threads, and check the results."""
    known = auth.hash_password("right")
    assert (True, None) == auth.verify_and_update_password_hash("right", known)
    assert (False, None) == auth.verify_and_update_password_hash("wrong", known)
    assert 16 == len(config.get_replica_secret())


def test_one_runs_at_a_time(runs: Runs, tmp_path: Path) -> None:
    """Eight threads hash, check and derive; the key is derived once, although all need it at the same time."""
    one_at_a_time()
    config = config_of(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(hash_check_and_derive, config) for _ in range(8)]:
            done.result(20)
    assert (1, 8 * 3 + 1) == (runs.most, runs.all)


def test_without_it_many_run_at_a_time(runs: Runs, tmp_path: Path) -> None:
    """The test above would fail without the patch."""
    config = config_of(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(hash_check_and_derive, config) for _ in range(8)]:
            done.result(20)
    assert runs.most > 1


def test_a_weak_hash_is_renewed_within_one_turn(runs: Runs) -> None:
    """A check that finds a weak hash makes a new one without a deadlock."""
    weak = CryptContext(["argon2"], argon2__memory_cost=32, argon2__rounds=1, argon2__parallelism=1).hash("right")
    one_at_a_time()
    with ThreadPoolExecutor(1) as pool:
        valid, renewed = pool.submit(auth.verify_and_update_password_hash, "right", weak).result(20)
    assert valid
    assert "m=64," in renewed


def test_who_knows_the_key_waits_for_nobody(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica's requests all need the derived key, and don't queue behind password checks."""
    held, checking = threading.Event(), threading.Event()
    config = config_of(tmp_path)

    def slow(*_: object) -> str:
        checking.set()
        assert held.wait(20)
        return "hash"

    monkeypatch.setattr(auth.pwd_context, "hash", slow)
    one_at_a_time()
    key = config.get_replica_secret()
    with ThreadPoolExecutor(2) as pool:
        hashing = pool.submit(auth.hash_password, "x")
        assert checking.wait(20)
        try:
            assert key == pool.submit(config.get_replica_secret).result(20)
        finally:
            held.set()
        assert "hash" == hashing.result(20)


def test_first_come_first_served() -> None:
    """The lock is taken in the order of arrival, and free at the end."""
    turn, order = FifoLock(), list[int]()

    def take(number: int) -> None:
        with turn:
            order.append(number)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(20)]
    with turn:
        for number, thread in enumerate(threads, 1):
            thread.start()
            deadline = time.monotonic() + 20
            while len(turn._line) < number:
                assert time.monotonic() < deadline
                time.sleep(0.001)
    for thread in threads:
        thread.join(20)
    assert list(range(20)) == order
    assert not turn._taken
