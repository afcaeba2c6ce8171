"""Secrets at rest: the record of root's password, the admin token, the login secret, the two folders."""

from __future__ import annotations

import base64
import errno
import itertools
import json
import os
import signal
import stat
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sidecar.core import discovery, files
from sidecar.features.credentials.login_secret import (
    LoginSecret,
    copy_provided_secret,
    generate_login_secret,
    place_copy,
)
from sidecar.features.credentials.password_status import RootPassword, RootPasswordStatus
from sidecar.features.credentials.root_password import RootPasswordFile
from sidecar.features.credentials.secrets import (
    AdminToken,
    CredentialsDamaged,
    CredentialsError,
    generate_password,
    generate_token,
    secure_directory,
)
from sidecar.storage.runtime_dir import RuntimeDir, RuntimeDirRefused

T0 = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
T1 = T0 + timedelta(seconds=60)
SECRET = "oldPassword0123456789012345678901"
NEW = "newPassword0123456789012345678901"
STRONG = base64.b64encode(bytes(range(32)))
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A `.sidecar` folder."""
    directory = tmp_path / ".sidecar"
    secure_directory(directory)
    return directory


@pytest.fixture
def record(own: Path) -> RootPasswordFile:
    """A record with a claimable password."""
    made = RootPasswordFile(own / "root-password.json")
    made.write_generated(SECRET, T0)
    return made


def reload(record: RootPasswordFile) -> RootPasswordFile:
    return RootPasswordFile(record.path).load()


def state(record: RootPasswordFile, ttl: float | None = None, at: datetime = T1) -> RootPassword:
    return record.status(ttl, at).state


# --- generating -----------------------------------------------------------------------------------------------


def test_generated_secrets_are_long_and_different() -> None:
    """32 letters and digits; a header-safe token; a login secret as devpi makes it."""
    assert all(len(p) == 32 and p.isascii() and p.isalnum() for p in (generate_password() for _ in range(50)))
    assert len({generate_password() for _ in range(50)}) == 50
    assert len(generate_token()) >= 43
    assert len(generate_login_secret()) == 44
    assert len(base64.b64decode(generate_login_secret())) == 32


# --- root's password ------------------------------------------------------------------------------------------


def test_a_claim_gives_the_password_once(record: RootPasswordFile) -> None:
    """The disk has it as claimed, with the address and without the secret; a second claim is refused."""
    assert record.claim("10.0.3.7", T1) == SECRET
    for seen in (record, reload(record)):
        assert seen.status(None, T1) == RootPasswordStatus(
            RootPassword.CLAIMED, changed=T1, claimed_from="10.0.3.7", generated=T0
        )
        with pytest.raises(ValueError, match="not claimable"):
            seen.claim("10.0.3.8", T1)
    assert SECRET not in record.path.read_text()
    assert mode(record.path) == 0o600


def test_an_unclaimed_password_survives_a_restart(record: RootPasswordFile) -> None:
    """It can be claimed from a reloaded record."""
    assert state(reload(record)) is RootPassword.CLAIMABLE
    assert reload(record).claim("::1", T1) == SECRET


def test_absent_is_unknown(own: Path) -> None:
    """Without a record nothing is known, claimable or due to expire."""
    absent = RootPasswordFile(own / "root-password.json").load()
    assert absent.status(1, T1) == RootPasswordStatus(RootPassword.UNKNOWN)
    with pytest.raises(ValueError, match="not claimable"):
        absent.claim("::1", T1)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (RootPasswordFile.write_provided, RootPassword.PROVIDED),
        (RootPasswordFile.write_from_import, RootPassword.FROM_IMPORT),
    ],
)
def test_passwords_of_others(
    record: RootPasswordFile, write: Callable[[RootPasswordFile], None], expected: RootPassword
) -> None:
    """A provided or imported password is recorded as such, without the password."""
    write(record)
    assert state(reload(record)) is expected
    assert SECRET not in record.path.read_text()


@pytest.mark.parametrize(
    ("seconds", "expected"), [(59.9, RootPassword.EXPIRED), (60, RootPassword.EXPIRED), (61, RootPassword.CLAIMABLE)]
)
def test_a_password_expires(record: RootPasswordFile, seconds: float, expected: RootPassword) -> None:
    """After 60 s it has expired with a TTL of up to 60 s."""
    assert state(record, seconds) is expected
    assert record.expires(seconds) == T0 + timedelta(seconds=seconds)


def test_expiring_removes_the_secret(record: RootPasswordFile) -> None:
    """Expired stays expired, even without a TTL at the next start."""
    record.expire(T1)
    assert reload(record).status(None, T1) == RootPasswordStatus(RootPassword.EXPIRED, changed=T1, generated=T0)
    assert SECRET not in record.path.read_text()
    with pytest.raises(ValueError, match="not claimable"):
        record.expire(T1)


def test_an_absurd_ttl_means_never(record: RootPasswordFile) -> None:
    """A TTL beyond the calendar is no error."""
    assert state(record, 1e12) is RootPassword.CLAIMABLE
    assert record.expires(1e12) is None


def test_rotating(record: RootPasswordFile) -> None:
    """During a rotation nothing is claimable or known; at the end it is claimed by the caller that rotated."""
    record.begin_rotation(NEW, keep_logins=True, at=T0)
    assert state(record) is RootPassword.UNKNOWN
    with pytest.raises(ValueError, match="not claimable"):
        record.claim("::1", T1)
    assert reload(record).pending_rotation() == NEW
    assert reload(record).pending_keeps_logins
    record.finish_rotation("10.0.0.1", T1)
    assert reload(record).status(None, T1).claimed_from == "10.0.0.1"
    assert reload(record).pending_rotation() is None
    assert NEW not in record.path.read_text()


@pytest.mark.parametrize("begun", ["absent", "claimable", "claimed", "expired", "given", "from_import"])
def test_an_abandoned_rotation_leaves_what_was(own: Path, begun: str) -> None:
    """The previous state is restored, also if the rotation was begun twice."""
    record = RootPasswordFile(own / "root-password.json")
    if begun in ("claimable", "claimed", "expired"):
        record.write_generated(SECRET, T0)
    if begun == "claimed":
        record.claim("::1", T1)
    elif begun == "expired":
        record.expire(T1)
    elif begun == "given":
        record.write_provided()
    elif begun == "from_import":
        record.write_from_import()
    before = record.path.read_bytes() if record.path.exists() else None
    record.begin_rotation("first" + NEW, keep_logins=False, at=T1)
    record.begin_rotation(NEW, keep_logins=False, at=T1)
    again = reload(record)
    assert again.pending_rotation() == NEW
    again.abandon_rotation()
    assert (record.path.read_bytes() if record.path.exists() else None) == before
    assert reload(record).pending_rotation() is None


def test_an_interrupted_rotation_is_recovered_as_claimable(record: RootPasswordFile) -> None:
    """Its password was never returned, so it is the one to claim."""
    record.begin_rotation(NEW, keep_logins=False, at=T0)
    found = reload(record)
    assert not found.pending_keeps_logins
    found.recover_rotation(T1)
    assert reload(record).expires(60) == T1 + timedelta(seconds=60)
    assert reload(record).claim("::1", T1) == NEW


@pytest.mark.parametrize("call", ["finish", "abandon", "recover"])
def test_ending_a_rotation_that_never_began(record: RootPasswordFile, call: str) -> None:
    """It is an error, and nothing changes."""
    end: dict[str, Callable[[], None]] = {
        "finish": lambda: record.finish_rotation("::1", T1),
        "abandon": record.abandon_rotation,
        "recover": record.recover_rotation,
    }
    with pytest.raises(ValueError, match="no rotation"):
        end[call]()
    assert reload(record).claim("::1", T1) == SECRET


DAMAGED = {
    "empty": b"",
    "cut": b'{"state": "claim',
    "binary": b"\xff\xfe\x00",
    "list": b"[]",
    "deep": b"[" * 60_000,
    "no state": b"{}",
    "state of another version": b'{"state": "sealed"}',
    "state is a list": b'{"state": []}',
    "unknown": b'{"state": "unknown"}',
    "no password": b'{"state": "claimable", "generated": "2026-11-22T12:00:00+00:00"}',
    "empty password": b'{"state": "claimable", "password": "", "generated": "2026-11-22T12:00:00+00:00"}',
    "password is a number": b'{"state": "claimable", "password": 7, "generated": "2026-11-22T12:00:00+00:00"}',
    "no time": b'{"state": "claimable", "password": "hunter2hunter2", "generated": "yesterday"}',
    "no zone": b'{"state": "claimable", "password": "hunter2hunter2", "generated": "2026-11-22T12:00:00"}',
    "nested rotation": b'{"state": "rotating", "password": "hunter2hunter2", "keep_logins": true,'
    b' "started": "2026-11-22T12:00:00Z", "previous": {"state": "rotating"}}',
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_record_is_never_taken_for_unknown(own: Path, content: bytes) -> None:
    """A specific error with a hint, without a path or a secret; the file is unchanged."""
    path = own / "root-password.json"
    path.write_bytes(content)
    with pytest.raises(CredentialsDamaged) as caught:
        RootPasswordFile(path).load()
    assert "root-password.json" in caught.value.reason
    assert caught.value.hint
    assert str(own) not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert path.read_bytes() == content


def test_a_record_that_is_a_link_is_refused(own: Path) -> None:
    """An unreadable record is an error too."""
    (own / "root-password.json").symlink_to("/dev/null")
    with pytest.raises(CredentialsError, match="symbolic link"):
        RootPasswordFile(own / "root-password.json").load()


def test_no_repr_has_a_secret_or_a_path(record: RootPasswordFile, tmp_path: Path) -> None:
    """Neither the record, nor the token, nor the login secret shows its value."""
    token = AdminToken.load_or_generate(tmp_path / "t", "given-token-0123456789")
    secret = LoginSecret.load_or_generate(record.path.parent, tmp_path)
    record.begin_rotation(NEW, keep_logins=False, at=T0)
    for text in (repr(record), repr(token), repr(secret)):
        for hidden in (SECRET, NEW, token.value, secret.secret.decode(), str(tmp_path), "digest"):
            assert hidden not in text


def failing_fsync(fails: Callable[[bool], bool]) -> Callable[[int], None]:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if fails(stat.S_ISDIR(os.fstat(descriptor).st_mode)):
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    return fsync


@pytest.mark.parametrize("of_directory", [False, True])
def test_a_claim_that_cant_be_recorded_is_no_claim(
    record: RootPasswordFile, monkeypatch: pytest.MonkeyPatch, of_directory: bool
) -> None:
    """With a failing disk no password is returned, and it can be claimed later, by this or the next start."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing_fsync(lambda directory: directory is of_directory))
        with pytest.raises(OSError, match="Input/output"):
            record.claim("10.0.0.1", T1)
    assert state(record) is state(reload(record)) is RootPassword.CLAIMABLE
    assert record.claim("10.0.0.2", T1) == SECRET
    assert reload(record).status(None, T1).claimed_from == "10.0.0.2"


# --- killed at each step ----------------------------------------------------------------------------------------

STEPS = ("open", "write", "fchmod", "fsync", "rename")


def killed(step: str, nth: int, after: bool, work: Callable[[], object]) -> bool:
    """Do `work` in a forked process that is killed before or after its nth call of `os.<step>`; False: not reached."""
    pid = os.fork()
    if pid == 0:
        try:
            calls = itertools.count(1)
            real = getattr(os, step)

            def hook(*args: object, **kwargs: object) -> object:
                here = next(calls) == nth
                if here and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = real(*args, **kwargs)
                if here:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            setattr(os, step, hook)
            work()
        finally:
            os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def each_kill(prepare: Callable[[], object], work: Callable[[], object], check: Callable[[], str]) -> set[str]:
    """Return the results of `check` for all points at which `work` can be killed."""
    found: dict[tuple[str, int, bool], str] = {}
    for step, after in itertools.product(STEPS, (False, True)):
        for nth in itertools.count(1):
            prepare()
            if not killed(step, nth, after, work):
                assert nth > 1, f"{step} is never called: the hooks are out of date"
                break
            found[step, nth, after] = check()
    assert len(found) >= 12
    assert found["open", 1, False] != found["fsync", 2, True]  # the first point changes nothing, the last everything
    return set(found.values())


@forks
def test_a_claim_killed_at_any_step_is_whole_or_never_was(own: Path) -> None:
    """Afterwards it is claimable with the same password, or claimed without a secret on the disk."""
    record = RootPasswordFile(own / "root-password.json")

    def check() -> str:
        files.remove_leftovers(own)
        found = reload(record)
        everything = b"".join(file.read_bytes() for file in own.iterdir())
        if state(found) is RootPassword.CLAIMED:
            assert SECRET.encode() not in everything
            assert found.status(None, T1).claimed_from == "10.0.0.1"
            return "claimed"
        assert found.claim("10.0.0.2", T1) == SECRET
        return "claimable"

    found = each_kill(lambda: record.write_generated(SECRET, T0), lambda: record.claim("10.0.0.1", T1), check)
    assert found == {"claimable", "claimed"}


@pytest.mark.slow
@forks
def test_a_rotation_killed_at_any_step_knows_its_password(own: Path) -> None:
    """During a rotation the record has the old state, the new password to be set, or is claimed."""
    record = RootPasswordFile(own / "root-password.json")

    def prepare() -> None:
        record.write_generated(SECRET, T0)

    def work() -> None:
        record.begin_rotation(NEW, keep_logins=False, at=T0)
        record.finish_rotation("10.0.0.1", T1)

    def check() -> str:
        files.remove_leftovers(own)
        found = reload(record)
        assert found.pending_rotation() in (None, NEW)
        return "rotating" if found.rotating else state(found).value

    each = set()
    for step, after, nth in itertools.product(STEPS, (False, True), range(1, 9)):
        prepare()
        if killed(step, nth, after, work):
            each.add(check())
    assert each == {"claimable", "rotating", "claimed"}


@forks
def test_a_renewal_killed_at_any_step_leaves_one_secret(tmp_path: Path, own: Path) -> None:
    """The old login secret or the new one, each with its own derivation."""
    (tmp_path / ".secret").write_bytes(STRONG)
    path = own / "login-secret.json"

    def check() -> str:
        found = LoginSecret.load_or_generate(own, tmp_path)
        assert (found.secret == STRONG, found.derivation) in ((True, "devpi"), (False, "cheap"))
        return found.origin

    adopted = LoginSecret.load_or_generate(own, tmp_path)
    content = path.read_bytes()
    assert each_kill(lambda: path.write_bytes(content), adopted.renew, check) == {"adopted", "generated"}


# --- admin token ----------------------------------------------------------------------------------------------


def test_a_given_token_wins_and_is_not_kept(own: Path) -> None:
    """It is not written to the volume, and the generated one stays there."""
    generated = AdminToken.load_or_generate(own / "admin-token", None)
    given = AdminToken.load_or_generate(own / "admin-token", "given-token-0123456789")
    assert given.value == "given-token-0123456789"
    assert AdminToken.load_or_generate(own / "admin-token", None) == generated
    AdminToken.load_or_generate(own / "other", "given-token-0123456789")
    assert not (own / "other").exists()


def test_a_generated_token_is_kept_privately(own: Path) -> None:
    """Mode 0600, the same at the next start, also after a chmod of the volume, and with an editor's newline."""
    path = own / "admin-token"
    token = AdminToken.load_or_generate(path, None)
    assert mode(path) == 0o600
    path.write_bytes(path.read_bytes() + b"\n")
    path.chmod(0o660)
    assert AdminToken.load_or_generate(path, None) == token
    assert mode(path) == 0o600


@pytest.mark.parametrize("content", [b"", b"short", b"with spaces in it all over", b"\xff" * 20, b"x" * 70_000])
def test_a_damaged_token_file_is_an_error(own: Path, content: bytes) -> None:
    """Neither a weak token nor an unnoticed new one."""
    (own / "admin-token").write_bytes(content)
    with pytest.raises(CredentialsError, match="admin-token"):
        AdminToken.load_or_generate(own / "admin-token", None)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"given-token-0123456789", True),
        (b"given-token-012345678", False),
        (b"given-token-01234567890", False),
        (b"", False),
        (b"\xff\x00", False),
        (b"x" * 100_000, False),
    ],
)
def test_tokens_are_compared_as_bytes(tmp_path: Path, raw: bytes, expected: bool) -> None:
    """Bytes of any length can be compared."""
    assert AdminToken.load_or_generate(tmp_path / "t", "given-token-0123456789").matches(raw) is expected


# --- login secret ---------------------------------------------------------------------------------------------


def test_a_login_secret_is_generated_once(tmp_path: Path, own: Path) -> None:
    """The same at each start, in a private file; a generated one has the cheap derivation."""
    first = LoginSecret.load_or_generate(own, tmp_path)
    assert (first.origin, first.derivation, len(first.secret)) == ("generated", "cheap", 44)
    assert LoginSecret.load_or_generate(own, tmp_path).secret == first.secret
    assert mode(own / "login-secret.json") == 0o600


def test_an_existing_secret_is_adopted(tmp_path: Path, own: Path) -> None:
    """devpi's own `.secret`, including its newline; later changes of that file don't matter."""
    (tmp_path / ".secret").write_bytes(STRONG + b"\n")
    first = LoginSecret.load_or_generate(own, tmp_path)
    assert (first.secret, first.origin, first.derivation) == (STRONG + b"\n", "adopted", "devpi")
    (tmp_path / ".secret").unlink()
    again = LoginSecret.load_or_generate(own, tmp_path)
    assert (again.secret, again.origin, again.derivation) == (STRONG + b"\n", "adopted", "devpi")


@pytest.mark.parametrize("content", [b"short", b"a" * 44])
def test_a_secret_that_devpi_would_refuse_is_named(tmp_path: Path, own: Path, content: bytes) -> None:
    """Too short or too uniform: an error now, instead of a devpi-server that exits with one."""
    (tmp_path / ".secret").write_bytes(content)
    with pytest.raises(CredentialsDamaged, match=r"\.secret"):
        LoginSecret.load_or_generate(own, tmp_path)
    (tmp_path / "given").write_bytes(content)
    with pytest.raises(CredentialsDamaged, match="--secretfile"):
        copy_provided_secret(tmp_path / "given", tmp_path)


def test_a_placed_secret_is_one_that_devpi_takes(tmp_path: Path, own: Path) -> None:
    """Exactly 0600, in a 0700 folder, with the same content; placing again replaces it."""
    secret = LoginSecret.load_or_generate(own, tmp_path)
    with_lock = RuntimeDir.open(tmp_path / "run")
    for _ in range(2):
        path = place_copy(secret.secret, tmp_path / "run")
        assert path.read_bytes() == secret.secret
        assert (mode(path), mode(path.parent)) == (0o600, 0o700)
        secret.renew()
    with_lock.close()
    assert not path.exists()


def test_renewing_is_kept(tmp_path: Path, own: Path) -> None:
    """A new secret, or the given one, is on the disk and in the object."""
    (tmp_path / ".secret").write_bytes(STRONG)
    secret = LoginSecret.load_or_generate(own, tmp_path)
    new = generate_login_secret()
    secret.renew(new)
    assert secret.secret == new
    assert (secret.origin, secret.derivation) == ("generated", "cheap")
    assert LoginSecret.load_or_generate(own, tmp_path).secret == new
    secret.renew()
    assert secret.secret != new


DAMAGED_SECRETS = [
    b"",
    b"{}",
    b"[]",
    b'{"secret": 7, "origin": "generated", "derivation": "cheap"}',
    b'{"secret": "***", "origin": "generated", "derivation": "cheap"}',
    b'{"secret": "YQ==", "origin": "generated", "derivation": "cheap"}',
    json.dumps({"secret": base64.b64encode(STRONG).decode(), "origin": "found", "derivation": "cheap"}).encode(),
    json.dumps({"secret": base64.b64encode(STRONG).decode(), "origin": "adopted", "derivation": []}).encode(),
]


@pytest.mark.parametrize("content", DAMAGED_SECRETS)
def test_a_damaged_login_secret_is_an_error(tmp_path: Path, own: Path, content: bytes) -> None:
    """Logins don't end silently, and the secret is not shown."""
    (own / "login-secret.json").write_bytes(content)
    with pytest.raises(CredentialsDamaged, match="login secret") as caught:
        LoginSecret.load_or_generate(own, tmp_path)
    assert str(tmp_path) not in str(caught.value)
    assert "YQ==" not in str(caught.value)


def test_a_given_secret_is_copied_from_a_kubernetes_mount(tmp_path: Path) -> None:
    """0440 behind links, as Kubernetes mounts it, becomes 0600."""
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "secret").write_bytes(STRONG)
    (tmp_path / "..data" / "secret").chmod(0o440)
    (tmp_path / "secret").symlink_to("..data/secret")
    run = tmp_path / "run"
    run.mkdir(0o700)
    path = copy_provided_secret(tmp_path / "secret", run)
    assert (path.read_bytes(), mode(path)) == (STRONG, 0o600)
    assert mode(tmp_path / "..data" / "secret") == 0o440


@pytest.mark.parametrize(("kind", "message"), [("absent", "does not exist"), ("folder", "can't be read")])
def test_a_given_secret_that_isnt_there_is_named(tmp_path: Path, kind: str, message: str) -> None:
    """The error has the flag and not the path."""
    if kind == "folder":
        (tmp_path / "secret").mkdir()
    with pytest.raises(CredentialsError, match=message) as caught:
        copy_provided_secret(tmp_path / "secret", tmp_path)
    assert "--secretfile" in caught.value.reason
    assert str(tmp_path) not in str(caught.value)


# --- what Kubernetes does to volumes --------------------------------------------------------------------------


def chmod_as_fsgroup(directory: Path) -> None:
    """Do what kubelet does with `fsGroup` at each start: g+rwX and setgid."""
    directory.chmod(0o2770)
    for entry in directory.iterdir():
        entry.chmod(0o2770 if entry.is_dir() else 0o660)


def test_a_recursive_chmod_is_survived_and_undone(tmp_path: Path, record: RootPasswordFile) -> None:
    """The secrets are unchanged and private again, and the folder is closed."""
    own = record.path.parent
    secret = LoginSecret.load_or_generate(own, tmp_path)
    token = AdminToken.load_or_generate(own / "admin-token", None)
    (own / "lock").write_bytes(b"")
    inode = (own / "lock").stat().st_ino
    (own / ".tmp-left").write_bytes(b"x")
    (own / "tmp").mkdir()
    chmod_as_fsgroup(own)
    secure_directory(own)
    assert mode(own) == 0o700
    assert {name.name: mode(name) for name in own.iterdir() if name.is_file()} == {
        "root-password.json": 0o600,
        "login-secret.json": 0o600,
        "admin-token": 0o600,
        "lock": 0o600,
    }
    assert (own / "lock").stat().st_ino == inode
    assert LoginSecret.load_or_generate(own, tmp_path).secret == secret.secret
    assert AdminToken.load_or_generate(own / "admin-token", None) == token
    assert reload(record).claim("::1", T1) == SECRET


def test_a_login_secret_alone_mends_its_mode(tmp_path: Path, own: Path) -> None:
    """Loading the record is enough."""
    secret = LoginSecret.load_or_generate(own, tmp_path)
    chmod_as_fsgroup(own)
    assert LoginSecret.load_or_generate(own, tmp_path).secret == secret.secret
    assert mode(own / "login-secret.json") == 0o600


def as_other_user(work: Callable[[], str]) -> str:
    """Return the result of `work` in a forked process of uid 65534 and group 4242 (the fsGroup)."""
    heard, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(4242)
            os.setuid(65534)
            os.write(told, work().encode())
        except BaseException as error:
            os.write(told, repr(error).encode())
        finally:
            os._exit(0)
    os.close(told)
    with os.fdopen(heard) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return text


@pytest.fixture
def volume() -> Iterator[Path]:
    """A serverdir that other users can reach, unlike pytest's own folders."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        secure_directory(Path(name) / ".sidecar")
        yield Path(name)


@as_root
@forks
def test_a_change_of_uid_is_survived(volume: Path) -> None:
    """Files of the former uid, readable by the group, become ours with 0600; others stay."""
    own = volume / ".sidecar"
    record = RootPasswordFile(own / "root-password.json")
    record.write_generated(SECRET, T0)
    secret = LoginSecret.load_or_generate(own, volume)
    (own / "lock").write_bytes(b"")
    for path in (own, *own.iterdir()):
        os.chown(path, 1000, 4242)
    chmod_as_fsgroup(own)

    def start() -> str:
        secure_directory(own)
        return f"{LoginSecret.load_or_generate(own, volume).secret.decode()} {reload(record).claim('::1', T1)}"

    assert as_other_user(start) == f"{secret.secret.decode()} {SECRET}"
    for name in ("login-secret.json", "root-password.json"):
        info = (own / name).stat()
        assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (65534, 0o600)
    assert (own / "lock").stat().st_uid == 1000


@as_root
@forks
def test_a_folder_that_cant_be_used_is_named(volume: Path) -> None:
    """Another user's closed `.sidecar`: an error with a hint and without the path."""

    def start() -> str:
        with pytest.raises(CredentialsError) as caught:
            secure_directory(volume / ".sidecar")
        return str(caught.value)

    said = as_other_user(start)
    assert "Permission denied" in said
    assert "uid 65534" in said
    assert str(volume) not in said


@as_root
@forks
def test_the_reader_trusts_its_own_user_alone(volume: Path) -> None:
    """Another user's runtime directory is not used; root may use any."""
    run = volume / "run"
    RuntimeDir.open(run).write_state("127.0.0.1", 7)
    run.chmod(0o755)
    (run / "address").chmod(0o644)

    def ask() -> str:
        with pytest.raises(discovery.NoSidecar) as caught:
            discovery.address(str(run))
        return str(caught.value)

    assert "belongs to uid 0, this is uid 65534" in as_other_user(ask)
    os.chown(run, 65534, 4242)
    assert "address belongs to uid 0" in as_other_user(ask)
    os.chown(run / "address", 65534, 4242)
    assert as_other_user(lambda: str(discovery.address(str(run)))) == "('127.0.0.1', 7)"
    assert discovery.address(str(run)) == ("127.0.0.1", 7)


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """A link in the serverdir does not expose our secrets."""
    (tmp_path / "elsewhere").mkdir(0o755)
    (tmp_path / ".sidecar").symlink_to("elsewhere")
    with pytest.raises(CredentialsError):
        secure_directory(tmp_path / ".sidecar")
    assert mode(tmp_path / "elsewhere") == 0o755


# --- runtime directory ----------------------------------------------------------------------------------------


def test_the_runtime_directory_tells_where_the_sidecar_is(tmp_path: Path) -> None:
    """All files are private, the reader finds it, and a stop leaves nothing."""
    path = tmp_path / "run"
    runtime = RuntimeDir.open(path)
    runtime.write_token("given-token-0123456789")
    runtime.write_state("0.0.0.0", 3142)
    place_copy(LoginSecret.load_or_generate(tmp_path, tmp_path).secret, path)
    assert mode(path) == 0o700
    assert {mode(file) for file in path.iterdir()} == {0o600}
    told = json.loads((path / "state.json").read_text())
    assert (told["pid"], told["url"]) == (os.getpid(), "http://127.0.0.1:3142")
    assert Path(told["token_file"]).read_text() == "given-token-0123456789\n"
    assert datetime.fromisoformat(told["started"]).tzinfo
    assert discovery.address(str(path)) == ("127.0.0.1", 3142)
    assert discovery.read(str(path), discovery.TOKEN).strip() == "given-token-0123456789"
    runtime.close()
    assert names(path) == ["lock"]


@pytest.mark.parametrize(
    ("host", "url", "reached"),
    [
        ("::", "http://127.0.0.1:1", "127.0.0.1"),
        ("::1", "http://[::1]:1", "::1"),
        ("fe80::1%eth0", "http://[fe80::1%25eth0]:1", "fe80::1%eth0"),
        ("10.1.2.3", "http://10.1.2.3:1", "10.1.2.3"),
        ("localhost", "http://localhost:1", "localhost"),
    ],
)
def test_addresses(tmp_path: Path, host: str, url: str, reached: str) -> None:
    """IPv6 is quoted in the URL; wildcards become loopback."""
    runtime = RuntimeDir.open(tmp_path / "run")
    runtime.write_state(host, 1)
    assert json.loads((tmp_path / "run" / "state.json").read_text())["url"] == url
    assert discovery.address(str(tmp_path / "run")) == (reached, 1)
    runtime.close()


def test_a_second_sidecar_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    """A living process holds the lock; its error has a hint; the first one's files stay."""
    first = RuntimeDir.open(tmp_path / "run")
    first.write_state("127.0.0.1", 1)
    with pytest.raises(RuntimeDirRefused, match="another running sidecar") as caught:
        RuntimeDir.open(tmp_path / "run")
    assert "SIDECAR_RUNTIME_DIR" in caught.value.hint
    assert discovery.address(str(tmp_path / "run")) == ("127.0.0.1", 1)
    first.close()
    RuntimeDir.open(tmp_path / "run").close()


def test_what_a_killed_sidecar_left_is_cleared(tmp_path: Path) -> None:
    """An old address would send the health check to another server; a wide mode is fixed."""
    run = tmp_path / "run"
    run.mkdir()
    run.chmod(0o2777)
    for name in ("state.json", "address", "token", "login-secret", ".tmp-x"):
        (run / name).write_text("old")
    runtime = RuntimeDir.open(run)
    assert names(run) == ["lock"]
    assert mode(run) == 0o700
    runtime.close()


@pytest.mark.parametrize("kind", ["link", "file", "no parent"])
def test_a_runtime_directory_that_isnt_one_is_refused(tmp_path: Path, kind: str) -> None:
    """With the hint, and without an open descriptor."""
    path = tmp_path / "run"
    if kind == "link":
        (tmp_path / "real").mkdir()
        path.symlink_to("real")
    elif kind == "file":
        path.touch()
    else:
        path = tmp_path / "absent" / "run"
    descriptors = open_descriptors()
    with pytest.raises(RuntimeDirRefused) as caught:
        RuntimeDir.open(path)
    assert "SIDECAR_RUNTIME_DIR" in caught.value.hint
    assert open_descriptors() == descriptors


@as_root
def test_another_users_runtime_directory_is_refused(tmp_path: Path) -> None:
    """Even if root could write to it."""
    (tmp_path / "run").mkdir()
    os.chown(tmp_path / "run", 1000, 1000)
    with pytest.raises(RuntimeDirRefused, match="belongs to uid 1000"):
        RuntimeDir.open(tmp_path / "run")
