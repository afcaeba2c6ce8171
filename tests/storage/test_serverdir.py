"""`sidecar.storage.serverdir`: examination, lock, and installations killed at every step."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from sidecar.core.errors import Exit, ExitCode
from sidecar.storage import lock
from sidecar.storage.inspection import Content, Storage
from sidecar.storage.serverdir import Serverdir
from tests.support.commits import interrupt_commit

ROOT = Path(__file__).resolve().parents[2]
SQLITE = Storage("sqlite")
PATIENCE = 30.0
"""Seconds after which a wait fails."""
NODEINFO = json.dumps({"uuid": "0123456789abcdef", "role": "standalone"})
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="takes the place of another user")


def make_state(folder: Path, *, serials: int = 3, role: str = "standalone") -> None:
    """A devpi state with all that the sidecar checks; `tests/devpi/test_process.py` has real ones."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".serverversion").write_text("4")
    (folder / ".nodeinfo").write_text(json.dumps({"uuid": "0123456789abcdef", "role": role}))
    with closing(sqlite3.connect(folder / ".sqlite")) as connection:
        connection.execute("CREATE TABLE changelog (serial INTEGER PRIMARY KEY, data BLOB NOT NULL, timestamp INTEGER)")
        connection.executemany("INSERT INTO changelog VALUES (?, 'x', 0)", [(serial,) for serial in range(serials)])
        connection.commit()
    (folder / "+files" / "root" / "dev").mkdir(parents=True)
    (folder / "+files" / "root" / "dev" / "pkg-1.tar.gz").write_bytes(b"package")
    (folder / ".event_serial").write_text("2")


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every entry below `folder` except the sidecar's own; the content of folders is None."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {
        name: None if path.is_dir() else path.read_bytes()
        for name, path in found.items()
        if name.partition("/")[0] != ".sidecar"
    }


@contextmanager
def opened(path: Path, storage: Storage = SQLITE) -> Iterator[Serverdir]:
    """A serverdir, locked in this context."""
    serverdir = Serverdir(path, storage)
    serverdir.open()
    try:
        yield serverdir
    finally:
        serverdir.lock.release()


def examined(path: Path, storage: Storage = SQLITE) -> Content:
    with opened(path, storage) as serverdir:
        serverdir.recover()
        return serverdir.examine()


def refused(path: Path, storage: Storage = SQLITE) -> Exit:
    """The error of a serverdir, which must be unchanged."""
    before = tree(path)
    with pytest.raises(Exit) as caught:
        examined(path, storage)
    assert tree(path) == before
    return caught.value


# --- open -----------------------------------------------------------------------------------------------------------


def test_a_missing_folder_is_made_private(tmp_path: Path) -> None:
    """The folder and its parents are created, private."""
    path = tmp_path / "a" / "serverdir"
    before = os.umask(0)
    try:
        with opened(path) as serverdir:
            assert path.stat().st_mode & 0o777 == 0o700
            assert serverdir.own.stat().st_mode & 0o777 == 0o700
            assert (serverdir.own / "lock").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_opening_leaves_only_the_lock(tmp_path: Path) -> None:
    """The written probe is removed; one of an earlier run does no harm."""
    (tmp_path / ".sidecar").mkdir()
    (tmp_path / ".sidecar" / ".tmp-probe").write_bytes(b"old")
    with opened(tmp_path) as serverdir:
        assert names(serverdir.own) == ["lock"]


@pytest.mark.parametrize("call", ["write", "fsync", "pwrite", "ftruncate"])
@pytest.mark.parametrize(
    ("code", "reason", "hint"),
    [
        (errno.ENOSPC, "no space is left", "free space on the serverdir's volume"),
        (errno.EDQUOT, "no space is left", "raise the quota"),
        (errno.EROFS, "read-only file system", "mount it read-write"),
        (errno.EIO, "Input/output error", "check the disk"),
    ],
)
def test_a_volume_that_takes_no_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, reason: str, hint: str
) -> None:
    """Full, over quota, read-only, broken: a reason and a hint, and the lock is released."""

    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(Exit) as caught:
            Serverdir(tmp_path, SQLITE).open()
    assert caught.value.code == ExitCode.NOT_WRITABLE
    assert str(tmp_path) in caught.value.reason
    assert reason in caught.value.reason
    assert hint in caught.value.hint
    with opened(tmp_path) as serverdir:
        assert names(serverdir.own) == ["lock"]


def test_a_file_in_the_serverdirs_place(tmp_path: Path) -> None:
    """A file is refused and stays unchanged."""
    (tmp_path / "serverdir").write_text("mine")
    with pytest.raises(Exit) as caught:
        Serverdir(tmp_path / "serverdir", SQLITE).open()
    assert caught.value.code == ExitCode.NOT_WRITABLE
    assert (tmp_path / "serverdir").read_text() == "mine"


AS_ANOTHER = """
import os, sys
from pathlib import Path
from sidecar.core.errors import Exit
from sidecar.storage.inspection import Storage
from sidecar.storage.serverdir import Serverdir
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
serverdir = Serverdir(Path(sys.argv[1]), Storage("sqlite"))
try:
    serverdir.open()
    serverdir.recover()
    print(serverdir.examine().name)
except Exit as error:
    print(int(error.code), error.reason, error.hint, sep="\\n")
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, unlike pytest's own."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def as_another_user(path: Path) -> list[str]:
    command = [sys.executable, "-c", AS_ANOTHER, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@needs_root
def test_a_serverdir_of_another_user(open_folder: Path) -> None:
    """The error names the owner, this user, and the chown that fixes it."""
    path = open_folder / "serverdir"
    make_state(path)
    path.chmod(0o755)
    code, reason, hint = as_another_user(path)
    assert int(code) == ExitCode.NOT_WRITABLE
    assert "not writable for uid 65534, gid 65534" in reason
    assert f"{path} belongs to uid 0, gid 0, mode 0755" in reason
    assert f"chown -R 65534:65534 {path}" in hint
    assert "uid 0" not in hint


@needs_root
def test_a_missing_serverdir_in_a_folder_of_another_user(open_folder: Path) -> None:
    """The error names the folder without permission, not the missing one."""
    code, reason, _ = as_another_user(open_folder / "a" / "serverdir")
    assert int(code) == ExitCode.NOT_WRITABLE
    assert f"{open_folder} belongs to uid 0" in reason


@needs_root
@pytest.mark.parametrize("name", [".serverversion", ".nodeinfo", ".sqlite", ".event_serial"])
def test_a_file_of_another_user(open_folder: Path, name: str) -> None:
    """One unwritable file in a writable folder: its name, its owner, and the chown."""
    path = open_folder / "serverdir"
    make_state(path)
    for each in (path, *path.rglob("*")):
        each.chmod(0o777)
    (path / name).chmod(0o600)
    code, reason, hint = as_another_user(path)
    assert int(code) == ExitCode.NOT_WRITABLE
    assert reason.startswith(f"{name} in the serverdir {path} belongs to uid 0")
    assert "not writable for uid 65534" in reason
    assert f"chown -R 65534:65534 {path}" in hint


# --- lock -----------------------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from sidecar.storage.inspection import Storage
from sidecar.storage.serverdir import Serverdir
Serverdir(Path(sys.argv[1]), Storage("sqlite")).open()
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """The serverdir, locked by a process that is killed at the end."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            yield holder
        finally:
            holder.kill()


def test_a_second_server_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused after the patience, with the holder's name; the holder's files stay unchanged."""
    monkeypatch.setattr(lock, "PATIENCE", 0.2)
    with held_by_another_process(tmp_path) as holder:
        (tmp_path / ".sidecar" / ".tmp-probe").write_bytes(b"the holder's")
        before = time.monotonic()
        with pytest.raises(Exit) as caught:
            Serverdir(tmp_path, SQLITE).open()
        assert 0.2 <= time.monotonic() - before < 30
    assert caught.value.code == ExitCode.LOCKED
    assert f"the serverdir {tmp_path} is in use by another server" in caught.value.reason
    assert f"pid {holder.pid}" in caught.value.reason
    assert os.uname().nodename in caught.value.reason
    assert "stop the other server first" in caught.value.hint
    assert (tmp_path / ".sidecar" / ".tmp-probe").read_bytes() == b"the holder's"


def test_a_lock_dies_with_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill releases the lock, and a waiting server gets it; the file then names the new holder."""
    monkeypatch.setattr(lock, "PATIENCE", PATIENCE)
    tries: list[int] = []
    real = fcntl.flock

    def flock(fd: int, operation: int) -> None:
        tries.append(operation)
        if len(tries) == 3:
            holder.kill()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with held_by_another_process(tmp_path) as holder, opened(tmp_path) as serverdir:
        assert len(tries) >= 3
        assert f"pid {os.getpid()}," in (serverdir.own / "lock").read_text()
        assert str(holder.pid) not in (serverdir.own / "lock").read_text()


def test_a_lock_lives_as_long_as_any_that_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """devpi-server inherits the descriptor: the serverdir is locked until both have exited."""
    monkeypatch.setattr(lock, "PATIENCE", 0.0)
    descriptors = Serverdir(tmp_path, SQLITE).open()
    inherited = [os.dup(each) for each in descriptors]
    for each in descriptors:
        os.close(each)
    with pytest.raises(Exit) as caught:
        Serverdir(tmp_path, SQLITE).open()
    assert caught.value.code == ExitCode.LOCKED
    for each in inherited:
        os.close(each)
    with opened(tmp_path):
        pass


def flock_of_files(fd: int, operation: int) -> None:
    """As on NFS: a directory, which can't be opened for writing, can't be locked."""
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    real_flock(fd, operation)


real_flock = fcntl.flock


def remove(own: Path) -> None:
    shutil.rmtree(own)


def move_away(own: Path) -> None:
    own.rename(own.with_name("elsewhere"))


def remove_the_file(own: Path) -> None:
    (own / "lock").unlink()


def replace_the_file(own: Path) -> None:
    """By a file with the same content, as from a backup."""
    shutil.copy(own / "lock", own / "copy")
    (own / "copy").rename(own / "lock")


VANISHED = pytest.mark.parametrize(
    ("vanish", "reason"),
    [
        (remove, "was removed"),
        (move_away, "was removed"),
        (remove_the_file, "was removed"),
        (replace_the_file, "was replaced"),
    ],
)


@VANISHED
def test_a_lock_whose_file_vanishes_still_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vanish: Callable[[Path], None], reason: str
) -> None:
    """The directory is locked, too: a second server is refused and creates nothing. The first one notices the loss."""
    monkeypatch.setattr(lock, "PATIENCE", 0.0)
    with opened(tmp_path) as serverdir:
        assert serverdir.lock.lost() is None
        vanish(serverdir.own)
        assert reason in (serverdir.lock.lost() or "")
        before = names(tmp_path)
        with pytest.raises(Exit) as caught:
            Serverdir(tmp_path, SQLITE).open()
        assert caught.value.code == ExitCode.LOCKED
        assert names(tmp_path) == before
    with opened(tmp_path) as serverdir:
        assert serverdir.lock.lost() is None


@VANISHED
def test_a_lock_on_nfs_is_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vanish: Callable[[Path], None], reason: str
) -> None:
    """If no directory can be locked, the file excludes others while it exists; its loss is noticed."""
    monkeypatch.setattr(lock, "PATIENCE", 0.0)
    monkeypatch.setattr(fcntl, "flock", flock_of_files)
    with opened(tmp_path) as serverdir:
        with pytest.raises(Exit) as caught:
            Serverdir(tmp_path, SQLITE).open()
        assert f"pid {os.getpid()}," in caught.value.reason
        vanish(serverdir.own)
        with opened(tmp_path) as second:
            assert second.lock.lost() is None
            assert "lock file" in (serverdir.lock.lost() or "")


def test_a_lock_that_is_there_again_is_held(tmp_path: Path) -> None:
    """Moving `.sidecar` away and back loses nothing."""
    with opened(tmp_path) as serverdir:
        serverdir.own.rename(tmp_path / "elsewhere")
        assert serverdir.lock.lost() is not None
        (tmp_path / "elsewhere").rename(serverdir.own)
        assert serverdir.lock.lost() is None


def test_a_lock_that_cant_be_looked_at_counts_as_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a broken volume, the lock can't be checked."""

    def lstat(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with opened(tmp_path) as serverdir:
        monkeypatch.setattr(Path, "lstat", lstat)
        assert "can't be checked: input/output error" in (serverdir.lock.lost() or "")
        monkeypatch.undo()


OLD_HOLDER = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(75)
print("held", flush=True)
sys.stdin.read()
"""


def test_an_older_version_is_kept_out_and_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It locks only the file."""
    monkeypatch.setattr(lock, "PATIENCE", 0.0)
    command = [sys.executable, "-c", OLD_HOLDER, str(tmp_path / ".sidecar" / "lock")]
    with opened(tmp_path):
        assert subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode == 75
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Exit) as caught:
            Serverdir(tmp_path, SQLITE).open()
        assert caught.value.code == ExitCode.LOCKED
        holder.kill()


@VANISHED
def test_a_stop_without_the_lock_clears_nothing_up(tmp_path: Path, vanish: Callable[[Path], None], reason: str) -> None:
    """`.sidecar` may be another server's by then."""
    with opened(tmp_path) as serverdir:
        vanish(serverdir.own)
        assert reason in (serverdir.lock.lost() or "")
        for folder in (serverdir.tmp, serverdir.staging):
            folder.mkdir(parents=True, exist_ok=True)
        (serverdir.own / "serving").write_bytes(b"")
        serverdir.clear_up(whole=True)
        assert {"serving", "staging", "tmp"} <= set(names(serverdir.own))


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_cant_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Some NFS: an error with a hint, and no descriptor is left open."""

    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    descriptors = len(names(Path("/proc/self/fd")))
    with pytest.raises(Exit) as caught:
        Serverdir(tmp_path, SQLITE).open()
    assert caught.value.code == ExitCode.LOCKED
    assert "can't lock files" in caught.value.reason
    assert "NFS" in caught.value.hint
    assert len(names(Path("/proc/self/fd"))) == descriptors


# --- examine --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [(), ("lost+found",), ("lost+found", ".snapshot", ".sidecar")])
def test_empty(tmp_path: Path, others: tuple[str, ...]) -> None:
    """Harmless names don't count."""
    for name in others:
        (tmp_path / name).mkdir()
    assert examined(tmp_path) is Content.EMPTY


@pytest.mark.parametrize("serials", [1, 3])
def test_a_state_of_somebody_elses_making(tmp_path: Path, serials: int) -> None:
    """A whole state without our marker; once adopted, ours."""
    make_state(tmp_path, serials=serials)
    before = tree(tmp_path)
    with opened(tmp_path) as serverdir:
        assert serverdir.recover() is None
        assert serverdir.examine() is Content.FOREIGN
        serverdir.adopt()
        assert serverdir.examine() is Content.OURS
    assert examined(tmp_path) is Content.OURS
    assert tree(tmp_path) == before


def test_a_new_replica_has_nothing_yet(tmp_path: Path) -> None:
    """Each replica begins at serial -1, and with no table at all."""
    make_state(tmp_path, serials=0, role="replica")
    assert examined(tmp_path) is Content.FOREIGN
    with closing(sqlite3.connect(tmp_path / ".sqlite")) as connection:
        connection.execute("DROP TABLE changelog")
    assert examined(tmp_path) is Content.FOREIGN


def test_other_storages(tmp_path: Path) -> None:
    """sqlite_db_files has another database in the serverdir, PostgreSQL has one outside of it."""
    make_state(tmp_path)
    (tmp_path / ".sqlite").rename(tmp_path / ".sqlite_db")
    assert examined(tmp_path, Storage("sqlite_db_files")) is Content.FOREIGN
    assert examined(tmp_path, Storage("pg8000")) is Content.FOREIGN
    assert "database .sqlite is missing" in refused(tmp_path).reason


@pytest.mark.parametrize("role", ["standalone", "replica"])
def test_a_commit_that_was_cut_short_is_no_damage(tmp_path: Path, role: str) -> None:
    """A killed devpi-server leaves a journal, which is rolled back: the state is as before, and devpi can read it."""
    make_state(tmp_path, serials=3, role=role)
    interrupt_commit(tmp_path / ".sqlite")
    assert examined(tmp_path) is Content.FOREIGN
    read_only = f"{(tmp_path / '.sqlite').as_uri()}?mode=ro"  # as devpi-server opens it first
    with closing(sqlite3.connect(read_only, uri=True)) as connection:
        assert connection.execute("SELECT max(serial) FROM changelog").fetchone() == (2,)


def folder_as_version(path: Path) -> None:
    (path / ".serverversion").unlink()
    (path / ".serverversion").mkdir()


def nothing_committed(path: Path) -> None:
    with closing(sqlite3.connect(path / ".sqlite")) as connection:
        connection.execute("DELETE FROM changelog")
        connection.commit()


def killed_tool(path: Path) -> None:
    (path / ".sidecar").mkdir(exist_ok=True)
    (path / ".sidecar" / "tool.json").write_text('{"tool": "devpi-import"}')


def killed_tool_at_first_step(path: Path) -> None:
    killed_tool(path)
    (path / ".serverversion").write_text("")


SPOIL: dict[str, Callable[[Path], object]] = {
    "no version": lambda path: (path / ".serverversion").unlink(),
    "version is a folder": folder_as_version,
    "version is empty": lambda path: (path / ".serverversion").write_text("\n"),
    "no nodeinfo": lambda path: (path / ".nodeinfo").unlink(),
    "nodeinfo truncated": lambda path: (path / ".nodeinfo").write_text(NODEINFO[:10]),
    "nodeinfo deep": lambda path: (path / ".nodeinfo").write_text("[" * 50_000),
    "nodeinfo a list": lambda path: (path / ".nodeinfo").write_text("[]"),
    "no database": lambda path: (path / ".sqlite").unlink(),
    "empty database": lambda path: (path / ".sqlite").write_bytes(b""),
    "no database file": lambda path: (path / ".sqlite").write_bytes(b"hello" * 1000),
    "truncated database": lambda path: os.truncate(path / ".sqlite", 4096),
    "serial -1": nothing_committed,
    "tool": killed_tool,
    "tool, killed at its first step": killed_tool_at_first_step,
}
"""How to damage a whole state in a folder."""
DAMAGES = {
    "no version": ".serverversion is missing, it holds +files, .event_serial, .nodeinfo, .sqlite",
    "version is a folder": ".serverversion can't be read",
    "version is empty": ".serverversion is empty: its initialisation or import was interrupted",
    "no nodeinfo": ".nodeinfo is missing",
    "nodeinfo truncated": ".nodeinfo can't be read",
    "nodeinfo deep": ".nodeinfo can't be read",
    "nodeinfo a list": ".nodeinfo does not contain a JSON object",
    "no database": "its database .sqlite is missing",
    "empty database": "its database .sqlite can't be read",
    "no database file": "its database .sqlite can't be read",
    "truncated database": "its database .sqlite can't be read",
    "serial -1": "its database is empty (serial -1): its initialisation or import was interrupted",
    "tool": "a devpi-import that was run on it has not finished",
    "tool, killed at its first step": "a devpi-import that was run on it has not finished",
}


@pytest.mark.parametrize("what", DAMAGES)
@pytest.mark.parametrize("marked", [False, True])
def test_damaged(tmp_path: Path, what: str, marked: bool) -> None:
    """Ours or not: refused with the reason and the hint, and unchanged."""
    make_state(tmp_path)
    if marked:
        with opened(tmp_path) as serverdir:
            serverdir.adopt()
    SPOIL[what](tmp_path)
    error = refused(tmp_path)
    assert error.code == ExitCode.DAMAGED
    assert error.reason.startswith(f"the serverdir {tmp_path} is damaged or not devpi's: {DAMAGES[what]}")
    assert error.hint.startswith("restore a backup of it, or delete its content")


def test_something_else(tmp_path: Path) -> None:
    """Other data is not overwritten; the error names some of it."""
    for number in range(9):
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
    error = refused(tmp_path)
    assert error.code == ExitCode.DAMAGED
    assert ".serverversion is missing, it holds 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg and 4 more" in error.reason


def test_a_state_that_was_ours_and_is_gone(tmp_path: Path) -> None:
    """A marker without a state is a loss, not an empty serverdir."""
    make_state(tmp_path)
    with opened(tmp_path) as serverdir:
        serverdir.adopt()
    for name in names(tmp_path):
        if name != ".sidecar":
            shutil.rmtree(tmp_path / name) if (tmp_path / name).is_dir() else (tmp_path / name).unlink()
    error = refused(tmp_path)
    assert error.code == ExitCode.DAMAGED
    assert ".serverversion is missing, it holds nothing" in error.reason


@pytest.mark.parametrize("version", ["3", "5", "40", "four", "4x"])
def test_another_state_version(tmp_path: Path, version: str) -> None:
    """The error contains both versions and the way to migrate: export, import."""
    make_state(tmp_path)
    (tmp_path / ".serverversion").write_text(version)
    error = refused(tmp_path)
    assert error.code == ExitCode.DAMAGED
    assert f"has devpi's state version {version!r}" in error.reason
    assert error.reason.endswith("this devpi-server requires '4'")
    assert "devpi-export" in error.hint


@pytest.mark.parametrize("version", ["4", "4\n", "4.0.0", "4.8.1\n"])
def test_the_right_state_version(tmp_path: Path, version: str) -> None:
    """As current and earlier versions of devpi-server write it."""
    make_state(tmp_path)
    (tmp_path / ".serverversion").write_text(version)
    assert examined(tmp_path) is Content.FOREIGN


# --- recover --------------------------------------------------------------------------------------------------------


def test_recovering_nothing(tmp_path: Path) -> None:
    """Returns nothing; there is a private, empty folder for uploads."""
    with opened(tmp_path) as serverdir:
        assert serverdir.recover() is None
        (serverdir.tmp / "upload").write_bytes(b"half")
        assert serverdir.recover() is None
        assert names(serverdir.tmp) == []
        assert serverdir.tmp.stat().st_mode & 0o777 == 0o700


def test_a_kill_is_told_from_a_clean_stop(tmp_path: Path) -> None:
    """A mark stays until devpi-server has left no partial uploads: other stops don't remove it after a kill."""
    with opened(tmp_path) as serverdir:
        serverdir.recover()
        assert serverdir.begin_serving() is False
    for _ in range(2):
        with opened(tmp_path) as serverdir:
            serverdir.recover()
            serverdir.clear_up()
            assert names(serverdir.own) == ["lock", "serving"]
            assert serverdir.begin_serving() is True
    with opened(tmp_path) as serverdir:
        serverdir.clear_up(whole=True)
        assert names(serverdir.own) == ["lock"]
        assert serverdir.begin_serving() is False


def test_a_kill_is_not_forgotten_where_the_disk_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If uploads can't be synced, the next start searches for partial ones again."""

    def refuse(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("sidecar.core.files.sync_file_system", refuse)
    with opened(tmp_path) as serverdir:
        serverdir.begin_serving()
        with pytest.raises(OSError, match="Input/output"):
            serverdir.clear_up(whole=True)
        assert serverdir.begin_serving() is True


def test_what_is_beside_devpis_files_is_not_touched_before_they_are_known(tmp_path: Path) -> None:
    """Another owner's volume stays unchanged; leftovers of ours are removed before devpi-server runs."""
    (tmp_path / ".tmp-theirs").write_bytes(b"theirs")
    with opened(tmp_path) as serverdir:
        serverdir.recover()
        with pytest.raises(Exit, match=r"\.serverversion is missing"):
            serverdir.examine()
        assert names(tmp_path) == [".sidecar", ".tmp-theirs"]
        (tmp_path / ".tmp-theirs").rename(tmp_path / ".tmp-.nodeinfo-0123")
        serverdir.begin_serving()
        assert names(tmp_path) == [".sidecar"]


def test_a_half_made_state_is_thrown_away(tmp_path: Path) -> None:
    """However whole it looks: without the intent it is not known to be."""
    with opened(tmp_path) as serverdir:
        serverdir.stage()
        make_state(serverdir.staged_state)
    with opened(tmp_path) as serverdir:
        done = serverdir.recover()
        assert done is not None
        assert "removed" in done
        assert serverdir.examine() is Content.EMPTY
        assert names(serverdir.own) == ["lock", "tmp"]
        assert serverdir.recover() is None


def test_a_half_made_state_makes_room_for_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may fill the volume, so it is removed before the first write; otherwise no start would ever succeed."""
    with opened(tmp_path) as serverdir:
        serverdir.stage()
        make_state(serverdir.staged_state)
    real_write = os.write

    def write(fd: int, data: bytes) -> int:
        if serverdir.staging.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_write(fd, data)

    monkeypatch.setattr(os, "write", write)
    with opened(tmp_path) as again:
        assert again.recover() == "removed an incomplete state from an earlier run"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"entries": []}', '{"origin": "x"}', "[" * 50_000])
def test_an_intent_that_cant_be_understood(tmp_path: Path, content: str) -> None:
    """Nothing is moved or removed; a reason and a hint."""
    with opened(tmp_path) as serverdir:
        serverdir.stage()
        make_state(serverdir.staged_state)
        (serverdir.own / "promotion.json").write_text(content)
        before = tree(serverdir.staged_state)
        with pytest.raises(Exit) as caught:
            serverdir.recover()
        assert tree(serverdir.staged_state) == before
    assert caught.value.code == ExitCode.DAMAGED
    assert "promotion.json" in caught.value.reason
    assert "restore a backup" in caught.value.hint


def test_clearing_up_at_a_stop(tmp_path: Path) -> None:
    """An incomplete state is removed; one that is being installed stays for the next start."""
    with opened(tmp_path) as serverdir:
        serverdir.recover()
        serverdir.stage()
        serverdir.clear_up()
        assert names(serverdir.own) == ["lock"]
        serverdir.stage()
        (serverdir.own / "promotion.json").write_text("{}")
        serverdir.clear_up()
        assert names(serverdir.own) == ["lock", "promotion.json", "staging"]


# --- install --------------------------------------------------------------------------------------------------------

RECORD = b'{"state": "given"}'


def stage(serverdir: Serverdir) -> None:
    """A whole state in staging, with a record of the root password."""
    serverdir.recover()
    serverdir.stage()
    (serverdir.scratch / "unpacked").write_bytes(b"x")
    make_state(serverdir.staged_state)
    serverdir.staged_record.write_bytes(RECORD)


def test_an_installation(tmp_path: Path) -> None:
    """The serverdir has the staged state, the record is in place, and nothing else is left."""
    with opened(tmp_path) as serverdir:
        stage(serverdir)
        staged = tree(serverdir.staged_state)
        serverdir.install("initialised")
        assert tree(tmp_path) == staged
        assert (serverdir.own / "root-password.json").read_bytes() == RECORD
        assert names(serverdir.own) == ["lock", "marker.json", "root-password.json", "tmp"]
        assert json.loads((serverdir.own / "marker.json").read_bytes())["origin"] == "initialised"
        assert serverdir.examine() is Content.OURS


def test_a_state_that_came_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    """After an interrupted installation, another state was put there: damaged, and both are kept."""
    with opened(tmp_path) as serverdir:
        stage(serverdir)
        entries = [".serverversion", ".sqlite", "+files", ".event_serial", ".nodeinfo"]
        (serverdir.own / "promotion.json").write_text(json.dumps({"origin": "imported", "entries": entries}))
        (tmp_path / ".sqlite").write_bytes(b"theirs")
        with pytest.raises(Exit, match=r"it holds \.sqlite, which the unfinished") as caught:
            serverdir.recover()
        assert caught.value.code == ExitCode.DAMAGED
        assert (tmp_path / ".sqlite").read_bytes() == b"theirs"
        assert (serverdir.staged_state / ".sqlite").exists()


def test_what_a_finished_installation_leaves_is_told_as_that(tmp_path: Path) -> None:
    """Killed between its last two steps, the state is whole and is not reported as incomplete."""
    with opened(tmp_path) as serverdir:
        stage(serverdir)
        serverdir.install("initialised")
        serverdir.stage()
    with opened(tmp_path) as serverdir:
        assert serverdir.recover() == "removed the leftovers of an installation from an earlier run"
        assert serverdir.examine() is Content.OURS


def test_an_adopted_state_may_be_of_a_killed_server(tmp_path: Path) -> None:
    """Its uploads are checked once, because its last stop is unknown."""
    make_state(tmp_path)
    with opened(tmp_path) as serverdir:
        serverdir.recover()
        serverdir.adopt()
        assert serverdir.begin_serving() is True


def test_nodeinfo_is_moved_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """devpi-server doesn't start without it; everything else is on disk before."""
    steps: list[str] = []
    real_rename, real_fsync = os.rename, os.fsync

    def rename(source: str | Path, target: str | Path) -> None:
        steps.append(Path(target).name)
        real_rename(source, target)

    def fsync(fd: int) -> None:
        steps.append(f"fsync {Path(f'/proc/self/fd/{fd}').readlink().name}")
        real_fsync(fd)

    with opened(tmp_path / "serverdir") as serverdir:
        stage(serverdir)
        monkeypatch.setattr(os, "rename", rename)
        monkeypatch.setattr(os, "fsync", fsync)
        serverdir.install("initialised")
    before, after = steps[: steps.index(".nodeinfo")], steps[steps.index(".nodeinfo") + 1 :]
    assert before[before.index("promotion.json") + 1] == "fsync .sidecar"
    assert {".sqlite", "+files", ".serverversion", "root-password.json"} <= set(before)
    assert before[-1] == "fsync serverdir"
    assert after[0] == "fsync serverdir"
    assert "marker.json" in after


def test_no_half_state_is_installed(tmp_path: Path) -> None:
    """Without .nodeinfo devpi did not finish: an internal error, before anything is moved."""
    with opened(tmp_path) as serverdir:
        stage(serverdir)
        (serverdir.staged_state / ".nodeinfo").unlink()
        with pytest.raises(Exit) as caught:
            serverdir.install("initialised")
        assert caught.value.code == ExitCode.INTERNAL
        assert serverdir.examine() is Content.EMPTY


def test_a_tool_that_was_killed_before_it_made_anything(tmp_path: Path) -> None:
    """The tool's mark belongs to a state that never existed, so the installed one does not count as unfinished."""
    with opened(tmp_path) as serverdir:
        (serverdir.own / "tool.json").write_text('{"tool": "devpi-init"}')
        assert serverdir.examine() is Content.EMPTY
        stage(serverdir)
        serverdir.install("initialised")
        assert serverdir.examine() is Content.OURS


KILL_EVERYWHERE = """
# Apply `action` to copies of each serverdir, in forks that are killed at their first, second, … call, until one isn't.
import os, shutil, sys
from pathlib import Path
from sidecar.storage.inspection import Storage
from sidecar.storage.serverdir import Serverdir

CALLS = ["open", "write", "fchmod", "fsync", "rename", "unlink", "rmdir", "mkdir", "close"]
action, copies = sys.argv[1], Path(sys.argv[2])
os.fsync = lambda fd: None  # the power is not cut here: only the order of steps counts


def die_at(last):
    left = [last]

    def counted(real):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)
            return real(*arguments, **options)
        return call

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))


for template in map(Path, sys.argv[3:]):
    number, code = 0, 9
    while code == 9:
        number += 1
        copy = copies / template.name / f"{number:03d}"
        shutil.copytree(template, copy)
        pid = os.fork()
        if pid == 0:
            serverdir = Serverdir(copy, Storage("sqlite"))
            if action == "recover":
                serverdir.open()
            die_at(number)
            serverdir.install("initialised") if action == "install" else serverdir.recover()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, code
"""


def killed_everywhere(action: str, copies: Path, *templates: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Each template's copies: one for each call at which `action` was killed, and a last one without a kill."""
    command = [sys.executable, "-c", KILL_EVERYWHERE, action, str(copies), *map(str, templates)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=6 * PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    for template in templates:
        yield template, sorted((copies / template.name).iterdir())


@pytest.fixture
def fast_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in memory if there is one: only processes are killed here."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture
def staged(fast_folder: Path) -> Path:
    """A serverdir with a staged state to install."""
    with opened(fast_folder / "staged") as serverdir:
        stage(serverdir)
    return fast_folder / "staged"


def judged(path: Path, whole: dict[str, bytes | None]) -> Content:
    """Open the remains of a kill: nothing at all, or ours and whole; it stays so."""
    with opened(path) as serverdir:
        serverdir.recover()
        content = serverdir.examine()
        own = names(serverdir.own)
        if content is Content.EMPTY:
            assert tree(path) == {}
            assert own == ["lock", "tmp"]
        else:
            assert content is Content.OURS
            assert tree(path) == whole
            assert own == ["lock", "marker.json", "root-password.json", "tmp"]
            assert (serverdir.own / "root-password.json").read_bytes() == RECORD
            assert json.loads((serverdir.own / "marker.json").read_bytes())["origin"] == "initialised"
        again = Serverdir(path, SQLITE)
        assert again.recover() is None
        assert again.examine() is content
        assert names(serverdir.own) == own
    return content


def test_an_installation_that_is_killed_at_every_step(staged: Path, fast_folder: Path) -> None:
    """Nothing, or ours and whole with the record in place; once it is ours, it is so at every later step."""
    whole = tree(staged / ".sidecar" / "staging" / "state")
    ((_, copies),) = killed_everywhere("install", fast_folder / "copies", staged)
    found = [judged(path, whole) for path in copies]
    first = found.index(Content.OURS)
    assert found[:first] == [Content.EMPTY] * first
    assert found[first:] == [Content.OURS] * (len(found) - first)
    assert first >= 5
    assert len(found) - first >= 25


def test_a_recovery_that_is_killed_at_every_step(staged: Path, fast_folder: Path) -> None:
    """From every state that a killed installation leaves, a killed recovery has the same result as another one."""
    whole = tree(staged / ".sidecar" / "staging" / "state")
    ((_, left),) = killed_everywhere("install", fast_folder / "copies", staged)
    different = {
        " ".join(sorted(str(path.relative_to(each)) for path in each.rglob("*") if ".tmp-" not in path.name)): each
        for each in left
    }
    verdicts = []
    for template, copies in killed_everywhere("recover", fast_folder / "again", *list(different.values())[::2]):
        content = judged(template, whole)
        assert [judged(path, whole) for path in copies] == [content] * len(copies)
        verdicts += [content] * len(copies)
    assert len(different) >= 12
    assert min(verdicts.count(Content.EMPTY), verdicts.count(Content.OURS)) >= 10


def test_an_installation_that_is_killed_by_a_signal(tmp_path: Path) -> None:
    """The same with real fsyncs and a real SIGKILL while the entries are being moved."""
    path = tmp_path / "serverdir"
    with opened(path) as serverdir:
        stage(serverdir)
    whole = tree(path / ".sidecar" / "staging" / "state")
    script = """
import os, signal, sys
from pathlib import Path
from sidecar.storage.inspection import Storage
from sidecar.storage.serverdir import Serverdir
real = os.rename
def rename(source, target):
    real(source, target)
    if Path(target).name == ".sqlite":
        os.kill(os.getpid(), signal.SIGKILL)
os.rename = rename
serverdir = Serverdir(Path(sys.argv[1]), Storage("sqlite"))
serverdir.open()
serverdir.install("initialised")
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, timeout=PATIENCE, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (path / ".sqlite").exists()
    assert not (path / ".nodeinfo").exists()
    with opened(path) as serverdir:
        done_text = serverdir.recover()
        assert done_text is not None
        assert "finished the installation" in done_text
    assert judged(path, whole) is Content.OURS
