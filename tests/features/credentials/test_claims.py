"""`sidecar.features.credentials.claims`: claims and rotations with real files, and a devpi that fails on demand."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sidecar.core import files
from sidecar.core.board import Board
from sidecar.core.lifecycle import Lifecycle, now
from sidecar.core.settings import CredentialSettings
from sidecar.devpi.process import SetFailed
from sidecar.features.credentials.claims import Claims
from sidecar.features.credentials.keeper import Credentials
from sidecar.features.credentials.login_secret import LoginSecret
from sidecar.features.credentials.password_status import PasswordChange, RootPassword, RootPasswordStatus
from sidecar.features.credentials.refusals import (
    AlreadyClaimed,
    CannotRotate,
    Expired,
    NothingToClaim,
    NotYet,
    Superseded,
)
from sidecar.features.credentials.root_password import RootPasswordFile
from sidecar.storage.inspection import Storage
from sidecar.storage.runtime_dir import RuntimeDir
from sidecar.storage.serverdir import Serverdir

SECRET = "oldPassword0123456789012345678901"


class Devpi:
    """A running devpi-server with a password and a login secret, which fails on demand."""

    def __init__(self) -> None:
        self.password = SECRET
        self.login_secret: bytes | None = None
        self.fails: Exception | None = None
        self.silent = False
        self.on_disk_when_asked = b""
        self.path: Path | None = None
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def set_root_password(self, password: str, login_secret: bytes | None) -> None:
        if self.path is not None:
            self.on_disk_when_asked = self.path.read_bytes()
        self.asked.set()
        await self.go_on.wait()
        if self.fails is not None:
            raise self.fails
        self.password, self.login_secret = password, login_secret

    async def is_root_password(self, password: str) -> bool | None:
        return None if self.silent else password == self.password


class World:
    """A container whose serverdir is installed and whose devpi-server runs."""

    def __init__(self, directory: Path, ttl: float | None = None, generated: datetime | None = None) -> None:
        self.directory = directory
        self.record = RootPasswordFile(directory / "root-password.json")
        self.record.write_generated(SECRET, generated)
        self.secret = LoginSecret.load_or_generate(directory, directory)
        self.lifecycle = Lifecycle()
        self.uptime = 0.0
        self.heard: list[RootPassword] = []
        self.claims = Claims(
            self.lifecycle, self.record, self.secret, ttl, changed=self.hear, clock=lambda: self.uptime
        )
        self.devpi = Devpi()
        self.devpi.path = self.record.path
        self.claims.devpi_up(self.devpi, "standalone")

    def hear(self) -> None:
        """Record the status that subscribers get with a change."""
        if hasattr(self, "claims"):
            self.heard.append(self.claims.status().state)

    @property
    def told(self) -> RootPassword:
        """Return the last published status."""
        return self.heard[-1]

    def on_disk(self) -> RootPasswordFile:
        return RootPasswordFile(self.record.path).load()


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_claim(world: World) -> None:
    """The password is returned once, and the change is published; a second caller learns of the first."""
    assert world.told is RootPassword.CLAIMABLE
    status = RootPasswordStatus(RootPassword.CLAIMABLE, generated=world.record.generated, change=PasswordChange.HERE)
    assert world.claims.status() == status
    assert await world.claims.claim("10.0.3.7") == SECRET
    assert world.told is RootPassword.CLAIMED
    with pytest.raises(AlreadyClaimed) as caught:
        await world.claims.claim("10.0.3.8")
    assert caught.value.address == "10.0.3.7"
    assert world.claims.status() == RootPasswordStatus(
        RootPassword.CLAIMED,
        changed=caught.value.at,
        claimed_from="10.0.3.7",
        generated=world.record.generated,
        change=PasswordChange.HERE,
    )
    assert SECRET not in world.record.path.read_text()


async def test_fifty_claims_at_the_same_instant(world: World) -> None:
    """Exactly one caller gets the password; the others learn who has it."""
    answers = await asyncio.gather(*(world.claims.claim(f"10.0.0.{n}") for n in range(50)), return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, str)] == [SECRET]
    losers = [answer for answer in answers if isinstance(answer, AlreadyClaimed)]
    assert len(losers) == 49
    assert {loser.address for loser in losers} == {f"10.0.0.{answers.index(SECRET)}"}


async def test_claimed_is_durable_before_the_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the caller gets the password, it is synced to disk, and the change is published."""
    done = []
    real = files.fsync_dir

    def fsync_dir(path: Path) -> None:
        real(path)
        done.append(world.record.path.read_text())

    monkeypatch.setattr(files, "fsync_dir", fsync_dir)
    await world.claims.claim("10.0.0.1")
    assert len(done) == 1
    assert '"claimed"' in done[0]


async def test_before_the_launch(tmp_path: Path) -> None:
    """The state is unknown, every call shall be retried, and the disk isn't read."""
    runtime = RuntimeDir.open(tmp_path / "runtime")
    credentials = Credentials(Lifecycle(), Board(), CredentialSettings(admin_token="given-token-0123456789"), runtime)
    assert credentials.root_password == RootPasswordStatus()
    for call in (credentials.claim("::1"), credentials.rotate("::1")):
        with pytest.raises(NotYet, match=r"devpi-server does not run yet \(starting\)") as caught:
            await call
        assert caught.value.retry_after == 2
    with pytest.raises(NotYet, match="admin token"):
        credentials.token_ok(b"given-token-0123456789")
    await credentials.opened(Serverdir(tmp_path, Storage("sqlite")))
    assert credentials.token_ok(b"given-token-0123456789")
    assert not credentials.token_ok(b"given-token-0123456788")
    runtime.close()


@pytest.mark.parametrize(
    ("write", "state", "word"),
    [
        (RootPasswordFile.write_provided, RootPassword.PROVIDED, "set by the operator"),
        (RootPasswordFile.write_from_import, RootPassword.FROM_IMPORT, "imported export"),
        (None, RootPassword.UNKNOWN, "before this sidecar"),
    ],
)
async def test_nothing_to_claim(
    tmp_path: Path, write: Callable[[RootPasswordFile], None] | None, state: RootPassword, word: str
) -> None:
    """The reason says whose password it is."""
    record = RootPasswordFile(tmp_path / "root-password.json")
    if write is not None:
        write(record)
    claims = Claims(Lifecycle(), record.load(), None, 60)
    claims.devpi_up(Devpi(), "standalone")
    assert claims.status().state is state
    with pytest.raises(NothingToClaim, match=word):
        await claims.claim("::1")


async def test_a_status_reads_no_disk(world: World) -> None:
    """It answers although the record's folder was removed."""
    world.record.path.unlink()
    assert world.claims.status().state is RootPassword.CLAIMABLE


# --- expiry ---------------------------------------------------------------------------------------------------


async def test_an_expired_password_is_gone(tmp_path: Path) -> None:
    """A claim after the TTL reports that, and deletes the secret; a rotation helps."""
    world = World(tmp_path, ttl=60, generated=now() - timedelta(seconds=61))
    assert world.told is RootPassword.EXPIRED
    for _ in range(2):
        with pytest.raises(Expired) as caught:
            await world.claims.claim("::1")
        assert abs(now() - caught.value.at) < timedelta(seconds=30)
    assert SECRET not in world.record.path.read_text()
    assert await world.claims.rotate("::1") == world.devpi.password


async def test_an_unclaimed_password_expires_by_the_tick(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The secret is deleted without any claim, once, with one line in the log."""
    world = World(tmp_path, ttl=60, generated=now() - timedelta(seconds=61))
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            await world.claims.expire_if_due()
    assert world.on_disk().status(None, now()).state is RootPassword.EXPIRED
    assert world.told is RootPassword.EXPIRED
    assert len(caplog.records) == 1


async def test_a_tick_before_the_time_does_nothing(tmp_path: Path) -> None:
    """A minute before expiry it can be claimed, and the expiry is published."""
    world = World(tmp_path, ttl=60)
    await world.claims.expire_if_due()
    assert world.claims.status().expires == (world.record.generated or now()) + timedelta(seconds=60)
    assert await world.claims.claim("::1") == SECRET
    await world.claims.expire_if_due()
    assert world.told is RootPassword.CLAIMED


async def test_a_disk_that_cant_expire_complains_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts as expired, and is deleted when the disk works again."""
    world = World(tmp_path, ttl=60, generated=now() - timedelta(seconds=61))
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_file", full_disk)
        for _ in range(3):
            await world.claims.expire_if_due()
        with pytest.raises(Expired):
            await world.claims.claim("::1")
    assert len(caplog.records) == 1
    assert SECRET in world.record.path.read_text()
    await world.claims.expire_if_due()
    assert SECRET not in world.record.path.read_text()


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# --- callers that go away -------------------------------------------------------------------------------------


class Slow:
    """Blocks the disk in the middle of a write, until released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        real = os.fsync

        def fsync(descriptor: int) -> None:
            self.reached.set()
            assert self.go_on.wait(10)
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)


async def test_a_claimer_that_hangs_up_in_the_middle(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has begun is finished: claimed, with the answer lost; the next caller gets the address."""
    slow = Slow(monkeypatch)
    caller = asyncio.create_task(world.claims.claim("10.0.0.1"))
    await asyncio.to_thread(slow.reached.wait, 10)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    slow.go_on.set()
    await world.claims.settle()
    assert world.on_disk().status(None, now()).claimed_from == "10.0.0.1"
    assert world.told is RootPassword.CLAIMED
    with pytest.raises(AlreadyClaimed):
        await world.claims.claim("10.0.0.2")


async def test_a_claimer_that_hangs_up_in_the_queue(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that has not begun claims nothing: the next one in the queue gets the password."""
    slow = Slow(monkeypatch)
    rotation = asyncio.create_task(world.claims.claim("10.0.0.1"))
    await asyncio.to_thread(slow.reached.wait, 10)
    queued = asyncio.create_task(world.claims.claim("10.0.0.2"))
    await asyncio.sleep(0)
    queued.cancel()
    slow.go_on.set()
    assert await rotation == SECRET
    with pytest.raises(asyncio.CancelledError):
        await queued
    with pytest.raises(AlreadyClaimed) as caught:
        await world.claims.claim("10.0.0.3")
    assert caught.value.address == "10.0.0.1"


async def test_a_rotator_that_hangs_up(world: World) -> None:
    """The rotation is finished without the caller: devpi and the record agree."""
    world.devpi.go_on.clear()
    caller = asyncio.create_task(world.claims.rotate("10.0.0.1"))
    await world.devpi.asked.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    world.devpi.go_on.set()
    await world.claims.settle()
    assert world.devpi.password != SECRET
    assert world.on_disk().status(None, now()).claimed_from == "10.0.0.1"
    assert world.devpi.login_secret == world.secret.secret


async def test_a_failure_that_nobody_hears_of(world: World) -> None:
    """The caller was cancelled when devpi refuses: asyncio does not complain, and the record is unchanged."""
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    world.devpi.fails = SetFailed("no", maybe_done=False)
    world.devpi.go_on.clear()
    caller = asyncio.create_task(world.claims.rotate("10.0.0.1"))
    await world.devpi.asked.wait()
    caller.cancel()
    await asyncio.wait([caller])
    world.devpi.go_on.set()
    await world.claims.settle()
    assert complaints == []
    assert await world.claims.claim("10.0.0.2") == SECRET


async def test_a_password_that_was_changed_in_another_way_is_not_told(world: World) -> None:
    """The claim reports that instead of a password that is not root's; rotating helps."""
    world.devpi.password = "set with devpi-passwd"
    with pytest.raises(Superseded):
        await world.claims.claim("10.0.0.1")
    assert world.on_disk().status(None, now()).claimed_from is None
    assert await world.claims.rotate("10.0.0.1") == world.devpi.password


async def test_a_devpi_that_does_not_say_whose_the_password_is(world: World) -> None:
    """Nothing is returned and nothing is lost; as soon as devpi-server answers, the claim succeeds."""
    world.devpi.silent = True
    with pytest.raises(NotYet):
        await world.claims.claim("10.0.0.1")
    world.devpi.silent = False
    world.claims.devpi_down()
    with pytest.raises(NotYet):
        await world.claims.claim("10.0.0.1")
    world.claims.devpi_up(world.devpi, "standalone")
    assert await world.claims.claim("10.0.0.1") == SECRET


@pytest.mark.parametrize("jump", [timedelta(days=1), timedelta(days=-1)], ids=["forwards", "backwards"])
async def test_a_clock_that_jumps_changes_no_expiry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    """While it runs, the TTL is measured by a monotonic clock."""
    world = World(tmp_path, ttl=60)
    monkeypatch.setattr("sidecar.features.credentials.claims.now", lambda: now() + jump)
    await world.claims.expire_if_due()
    assert world.claims.status().state is RootPassword.CLAIMABLE
    world.uptime = 61
    await world.claims.expire_if_due()
    assert world.on_disk().status(None, now()).state is RootPassword.EXPIRED


async def test_a_password_of_the_future_lives_no_longer_than_another(tmp_path: Path) -> None:
    """A password generated by a wrong clock expires one TTL after the next start."""
    world = World(tmp_path, ttl=60, generated=now() + timedelta(days=10000))
    world.uptime = 59
    assert world.claims.status().state is RootPassword.CLAIMABLE
    world.uptime = 61
    assert world.claims.status().state is RootPassword.EXPIRED


async def test_a_full_disk_is_no_claim(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller shall retry, and gets the password when there is space."""
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_file", full_disk)
        with pytest.raises(NotYet, match="No space left"):
            await world.claims.claim("10.0.0.1")
    assert world.told is RootPassword.CLAIMABLE
    assert await world.claims.claim("10.0.0.2") == SECRET


# --- rotating -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_logins", [False, True])
async def test_a_rotation(world: World, keep_logins: bool) -> None:
    """devpi has the new password, which was recorded before; logins end unless they are kept."""
    before = world.secret.secret
    password = await world.claims.rotate("10.0.0.1", keep_logins=keep_logins)
    assert len(password) == 32
    assert password == world.devpi.password != SECRET
    assert password.encode() in world.devpi.on_disk_when_asked
    assert password not in world.record.path.read_text()
    assert world.told is RootPassword.CLAIMED
    assert world.claims.status().claimed_from == "10.0.0.1"
    kept = LoginSecret.load_or_generate(world.directory, world.directory).secret
    if keep_logins:
        assert (world.devpi.login_secret, kept) == (None, before)
    else:
        assert world.devpi.login_secret == kept == world.secret.secret != before
    with pytest.raises(AlreadyClaimed):
        await world.claims.claim("10.0.0.2")


async def test_nothing_else_while_it_rotates(world: World) -> None:
    """Claims and rotations meanwhile shall be retried, and a tick does not wait."""
    world.devpi.go_on.clear()
    rotation = asyncio.create_task(world.claims.rotate("10.0.0.1"))
    await world.devpi.asked.wait()
    with pytest.raises(NotYet, match="being changed"):
        await world.claims.claim("10.0.0.2")
    with pytest.raises(NotYet, match="being changed"):
        await world.claims.rotate("10.0.0.2")
    await asyncio.wait_for(world.claims.expire_if_due(), 1)
    world.devpi.go_on.set()
    assert await rotation == world.devpi.password


async def test_rotations_at_the_same_instant(world: World) -> None:
    """There is one password, and devpi has it: no answer is invalid before it is read."""
    answers = await asyncio.gather(*(world.claims.rotate(f"10.0.0.{n}") for n in range(9)), return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, str)] == [world.devpi.password]
    assert sum(isinstance(answer, NotYet) for answer in answers) == 8
    assert await world.claims.rotate("10.0.0.9") == world.devpi.password


async def test_devpi_refuses_the_password(world: World) -> None:
    """Certainly not done: everything is unchanged, also the login secret, and the old password can be claimed."""
    before = world.secret.secret
    world.devpi.fails = SetFailed("read-only", maybe_done=False)
    with pytest.raises(CannotRotate, match="read-only"):
        await world.claims.rotate("10.0.0.1")
    assert world.told is RootPassword.CLAIMABLE
    assert LoginSecret.load_or_generate(world.directory, world.directory).secret == before
    assert await world.claims.claim("10.0.0.2") == SECRET


@pytest.mark.parametrize(
    "failure", [SetFailed("it ended", maybe_done=True), ConnectionResetError(errno.ECONNRESET, "reset"), TimeoutError()]
)
async def test_nobody_knows_whether_devpi_did_it(world: World, failure: Exception) -> None:
    """An unknown result is reported; a restart sets the recorded password, and another rotation fixes it."""
    world.devpi.fails = failure
    with pytest.raises(NotYet, match="rotate again"):
        await world.claims.rotate("10.0.0.1")
    assert world.told is RootPassword.UNKNOWN
    pending = world.on_disk().pending_rotation()
    assert pending
    assert pending.encode() in world.devpi.on_disk_when_asked
    with pytest.raises(NotYet, match="rotate again"):
        await world.claims.claim("10.0.0.1")
    world.devpi.fails = SetFailed("no", maybe_done=False)  # the first rotation may have been carried out
    with pytest.raises(NotYet, match="rotate again"):
        await world.claims.rotate("10.0.0.1")
    world.devpi.fails = None
    assert await world.claims.rotate("10.0.0.1") == world.devpi.password
    assert world.told is RootPassword.CLAIMED
    assert world.on_disk().pending_rotation() is None


async def test_a_volume_that_is_gone_is_not_full(world: World) -> None:
    """Rotating and claiming without a serverdir: the hint says that it was unmounted, not that it is full."""
    os.rename(world.directory, world.directory.with_name("elsewhere"))  # noqa: PTH104 - as umount would
    with pytest.raises(CannotRotate, match="No such file") as caught:
        await world.claims.rotate("10.0.0.1")
    assert caught.value.hint == "the serverdir's volume was removed or unmounted: mount it and start again"
    with pytest.raises(NotYet, match="was removed or unmounted") as later:
        await world.claims.claim("10.0.0.1")
    assert "room" not in later.value.reason


async def test_a_runtime_directory_that_is_full(world: World) -> None:
    """devpi-server's log has nothing of it: the hint is about the directory."""
    world.devpi.fails = SetFailed("no space", maybe_done=False, hint="free space on the runtime directory")
    with pytest.raises(CannotRotate) as caught:
        await world.claims.rotate("10.0.0.1")
    assert caught.value.hint == "free space on the runtime directory"


@pytest.mark.parametrize(("nth", "error"), [(1, CannotRotate), (2, NotYet), (3, NotYet)])
async def test_a_disk_that_fills_up_while_it_rotates(
    world: World, monkeypatch: pytest.MonkeyPatch, nth: int, error: type[Exception]
) -> None:
    """At the start nothing has happened; later the record has the password to set, and a rotation fixes it."""
    calls = iter(range(1, 100))
    real = files.write_file

    def write_file(path: Path, data: bytes) -> None:
        if next(calls) >= nth:
            full_disk()
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_file", write_file)
        with pytest.raises(error, match="No space left"):
            await world.claims.rotate("10.0.0.1")
    assert world.told is (RootPassword.CLAIMABLE if nth == 1 else RootPassword.UNKNOWN)
    assert world.on_disk().pending_rotation() == (None if nth == 1 else world.devpi.password)
    assert await world.claims.rotate("10.0.0.1") == world.devpi.password


@pytest.mark.parametrize(
    ("running", "role", "error", "word"),
    [
        (False, "standalone", NotYet, "does not run"),
        (True, "replica", CannotRotate, "primary owns the users"),
        (False, "replica", CannotRotate, "primary owns the users"),
    ],
)
async def test_where_rotating_is_not_possible(
    world: World, running: bool, role: str, error: type[Exception], word: str
) -> None:
    """Nothing is written then."""
    before = world.record.path.read_bytes()
    world.claims.devpi_up(world.devpi, role)
    if not running:
        world.claims.devpi_down()
    with pytest.raises(error, match=word):
        await world.claims.rotate("10.0.0.1")
    assert world.record.path.read_bytes() == before


async def test_the_operators_own_login_secret_is_not_renewed(world: World) -> None:
    """It is refused without keep_logins, which changes only the password."""
    world.claims.launching(None)
    with pytest.raises(CannotRotate, match="--secretfile") as caught:
        await world.claims.rotate("10.0.0.1")
    assert "keep_logins" in caught.value.hint
    assert await world.claims.rotate("10.0.0.1", keep_logins=True) == world.devpi.password
    assert world.devpi.login_secret is None


async def test_no_password_in_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Claims and rotations are logged with their address, without the password."""
    with caplog.at_level(logging.DEBUG):
        told = [await world.claims.claim("10.0.0.1"), await world.claims.rotate("10.0.0.2")]
    assert "10.0.0.1" in caplog.text
    assert "10.0.0.2" in caplog.text
    assert not any(password in caplog.text for password in told)


async def test_times_are_utc(world: World) -> None:
    """Times in the API have a time zone."""
    await world.claims.claim("10.0.0.1")
    at = world.claims.status().claimed_at
    assert at is not None
    assert at.tzinfo is UTC
