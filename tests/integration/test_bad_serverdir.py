"""Unusable serverdirs, ports and settings: an exit code, a message with a hint, and nothing on disk is changed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import exported
from tests.support.container import Container, wait_for

pytestmark = pytest.mark.slow

Make = Callable[..., Container]
SETTINGS, DAMAGED, PORT_IN_USE, NOT_WRITABLE, LOCKED = 2, 65, 69, 73, 75


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete state, made by the entrypoint."""
    origin = Container(tmp_path_factory.mktemp("made"))
    origin.start().wait_ready()
    assert origin.stop() == 0
    return origin.serverdir


def entries(directory: Path) -> set[str]:
    """Return the names in a directory, except our own folder."""
    return exported.names(directory) - {".sidecar"}


# --- damaged --------------------------------------------------------------------------------------------------------


def no_database(serverdir: Path) -> str:
    """As an initialisation leaves it that is killed early."""
    (serverdir / ".sqlite").unlink()
    shutil.rmtree(serverdir / ".sidecar")
    return "its database .sqlite is missing"


def no_serial(serverdir: Path) -> str:
    """As an initialisation leaves it that is killed before its first commit: the schema and nothing in it."""
    shutil.rmtree(serverdir / ".sidecar")
    with sqlite3.connect(serverdir / ".sqlite") as database:
        database.execute("DELETE FROM changelog")
    database.close()
    return "serial -1"


def other_version(serverdir: Path) -> str:
    """As an older devpi-server leaves it."""
    (serverdir / ".serverversion").write_text("3\n")
    return "state version '3'"


def foreign_files(serverdir: Path) -> str:
    """Another program's folder."""
    shutil.rmtree(serverdir)
    (serverdir / "photos").mkdir(parents=True)
    (serverdir / "photos" / "cat.jpg").write_bytes(b"meow")
    return ".serverversion is missing, it holds photos"


def one_foreign_file(serverdir: Path) -> str:
    """devpi-init itself would ignore one foreign entry."""
    shutil.rmtree(serverdir)
    serverdir.mkdir()
    (serverdir / "notes.txt").write_text("keep")
    return "it holds notes.txt"


def marked_database_gone(serverdir: Path) -> str:
    """A complete state whose database was deleted: devpi-server would start without users, open to any client."""
    (serverdir / ".sqlite").unlink()
    return "its database .sqlite is missing"


def marked_nodeinfo_gone(serverdir: Path) -> str:
    """A complete state whose `.nodeinfo` was deleted: an initialisation would overwrite it."""
    (serverdir / ".nodeinfo").unlink()
    return ".nodeinfo is missing"


def marked_all_gone(serverdir: Path) -> str:
    """Only our own folder is left, and its marker shows that there was a state."""
    for entry in entries(serverdir):
        path = serverdir / entry
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return "damaged"


def database_of_garbage(serverdir: Path) -> str:
    """A file that is not SQLite's."""
    (serverdir / ".sqlite").write_bytes(b"garbage" * 1000)
    return "can't be read"


@pytest.mark.parametrize(
    "spoil",
    [
        no_database,
        no_serial,
        other_version,
        foreign_files,
        one_foreign_file,
        marked_database_gone,
        marked_nodeinfo_gone,
        marked_all_gone,
        database_of_garbage,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_what_is_not_whole_is_never_served_nor_written_over(
    container: Make, made: Path, spoil: Callable[[Path], str]
) -> None:
    """Exit code 65 with the reason, and no byte changed; an export in the init directory makes no difference."""
    bad = container()
    shutil.copytree(made, bad.serverdir)
    words = spoil(bad.serverdir)
    exported.pack(exported.write(bad.home / "export"), bad.init_dir / "backup.bz2")
    kept = {".sidecar/lock", ".sidecar/admin-token"}  # ours
    before = {path: digest for path, digest in exported.digests(bad.serverdir).items() if path not in kept}
    assert DAMAGED == bad.start().wait_end()
    after = {path: digest for path, digest in exported.digests(bad.serverdir).items() if path not in kept}
    assert before == after
    assert words in bad.log
    assert "Traceback" not in bad.log


def test_a_killed_devpi_init_is_not_served(container: Make, tmp_path: Path) -> None:
    """A real kill when there is a `.nodeinfo`: what it leaves is incomplete in any case."""
    import subprocess

    bad = container()
    init = subprocess.Popen(
        [exported.BIN / "devpi-init", "--serverdir", bad.serverdir, "--no-root-pypi"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not (bad.serverdir / ".nodeinfo").exists() and init.poll() is None:
            pass
    finally:
        init.kill()
        init.wait()
    before = exported.digests(bad.serverdir)
    assert ".nodeinfo" in before
    if before.pop(".sqlite-journal", None):  # the next reader of the database rolls back the interrupted transaction
        before.pop(".sqlite", None)
    assert DAMAGED == bad.start().wait_end()
    after = exported.digests(bad.serverdir)
    assert before.items() <= after.items()
    assert "damaged" in bad.log


# --- not writable ---------------------------------------------------------------------------------------------------


def test_root_s_serverdir_for_another_user(other_user: Make) -> None:
    """A volume that belongs to root: code 73, and the message has uid, owner and the `chown` that fixes it."""
    bad = other_user()
    bad.serverdir.mkdir(mode=0o755)
    assert NOT_WRITABLE == bad.start().wait_end()
    assert f"not writable for uid {bad.user}" in bad.log
    assert "belongs to uid 0" in bad.log
    assert f"chown -R {bad.user}:{bad.user} {bad.serverdir}" in bad.log
    assert set() == exported.names(bad.serverdir)


def test_a_state_of_another_user(other_user: Make, made: Path) -> None:
    """A complete state of another uid, in a folder that all may write to: code 73, no byte changed."""
    bad = other_user()
    shutil.copytree(made, bad.serverdir)
    bad.serverdir.chmod(0o777)
    before = exported.digests(bad.serverdir)
    assert NOT_WRITABLE == bad.start().wait_end()
    assert "chown" in bad.log
    assert before == exported.digests(bad.serverdir)


def test_a_folder_of_our_group(other_user: Make) -> None:
    """OpenShift: any uid, the volume is another's, but its group is ours and may write. It works, twice."""
    new = other_user()
    assert new.user is not None
    new.serverdir.mkdir()
    os.chown(new.serverdir, 54321, new.user)
    new.serverdir.chmod(0o2770)
    new.start().wait_ready()
    password = new.claim()
    assert 0 == new.stop()
    new.start().wait_ready()
    assert 200 == new.login("root", password)


# --- in use ---------------------------------------------------------------------------------------------------------


def test_a_second_container_on_the_same_serverdir(container: Make) -> None:
    """Code 75 with the first one's name, which is not disturbed; after that was killed, the next gets the lock."""
    first = container("first").start().wait_ready()
    password = first.claim()
    before = exported.digests(first.serverdir)
    second = container("second", env={"DEVPI_SERVERDIR": str(first.serverdir)}).start()
    assert LOCKED == second.wait_end()
    assert "in use by another server" in second.log
    assert f"pid {first.pid}" in second.log
    assert before == exported.digests(first.serverdir)
    third = container("third", env={"DEVPI_SERVERDIR": str(first.serverdir)}).start().wait_listening()
    assert 0 == third.stop()  # while it waits for the lock
    assert (first.serverdir / ".sidecar/tmp").is_dir(), "uploads are spooled there"
    assert (200, 200) == (first.get("/readyz").status, first.login("root", password))
    first.kill()
    second.start().wait_ready()
    assert 200 == second.login("root", password)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port in use."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_the_sidecar_s_port_is_in_use(container: Make, taken: int) -> None:
    """Code 69 with port and setting, before anything is on disk."""
    bad = container(env={"SIDECAR_PORT": str(taken)})
    assert PORT_IN_USE == bad.start().wait_end()
    assert f"127.0.0.1:{taken}" in bad.log
    assert "SIDECAR_PORT" in bad.log
    assert not bad.serverdir.exists()


def with_an_import(c: Container) -> Container:
    """An archive that is no export: an import that starts would exit with another code."""
    c.init_dir.mkdir()
    (c.init_dir / "export.tar.gz").write_bytes(b"no archive")
    return c


def test_devpi_s_port_is_in_use(container: Make, taken: int) -> None:
    """Code 69 with port and flag, before an import starts and before anything but our own folder is on disk."""
    flags = ("--host", "127.0.0.1", "--port", str(taken), "--no-root-pypi", "--offline-mode")
    bad = with_an_import(container(flags=flags))
    assert PORT_IN_USE == bad.start().wait_end()
    assert f"devpi-server can't listen on http://127.0.0.1:{taken}: Address already in use" in bad.log
    assert "--port" in bad.log
    assert "import" not in bad.log
    assert {".sidecar"} == exported.names(bad.serverdir)
    assert not (bad.serverdir / ".sidecar/staging").exists()


def test_devpi_s_unix_socket_is_in_use(container: Make, tmp_path: Path) -> None:
    """Code 69, and its server keeps it; after that was killed, the next gets it."""
    path = tmp_path / "devpi.sock"
    flags = ("--unix-socket", str(path), "--no-root-pypi", "--offline-mode")
    first = container("first", flags=flags).start().wait_ready()
    second = with_an_import(container("second", flags=flags))
    assert PORT_IN_USE == second.start().wait_end()
    assert f"devpi-server can't listen on unix:{path}: Address already in use" in second.log
    assert "--unix-socket" in second.log
    assert {".sidecar"} == exported.names(second.serverdir)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    first.kill()
    assert path.is_socket()
    shutil.rmtree(second.init_dir)
    second.start().wait_ready()
    assert 0 == second.stop()
    assert not path.exists()


def test_a_unix_socket_in_the_serverdir(container: Make, tmp_path: Path) -> None:
    """An empty serverdir stays empty with it, also after a kill that left it there before there was a state."""
    c = container(flags=("--unix-socket", str(tmp_path / "s" / "devpi.sock"), "--no-root-pypi", "--offline-mode"))
    c.env["DEVPI_SERVERDIR"] = str(tmp_path / "s")
    c.serverdir = tmp_path / "s"
    c.serverdir.mkdir()
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(c.serverdir / "devpi.sock"))
    c.start().wait_ready()
    c.kill()
    c.start().wait_ready()
    assert 0 == c.stop()
    assert "devpi.sock" not in exported.names(c.serverdir)


def test_a_unix_socket_is_gone_after_a_failed_start(container: Make, tmp_path: Path) -> None:
    """Bound before the import, refused while the import's failure is shown, and removed by a stop."""
    path = tmp_path / "devpi.sock"
    flags = ("--unix-socket", str(path), "--no-root-pypi", "--offline-mode")
    bad = with_an_import(container(flags=flags)).start()
    wait_for(lambda: bad.status()["phase"] == "failed", "the failure of the import")
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(path))
    assert 0 == bad.stop()
    assert not path.exists()


# --- settings -------------------------------------------------------------------------------------------------------


def secret_file(content: bytes) -> Callable[[Path], Path]:
    """Return a file with a secret."""

    def write(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return write


def both(path: Path) -> dict[str, str]:
    """A password, and a file with another."""
    return {"DEVPI_PASSWORD": "one", "DEVPI_PASSWORD_FILE": str(secret_file(b"two")(path))}


BAD_SETTINGS: dict[str, tuple[Callable[[Path], dict[str, str]], str]] = {
    "both": (both, "DEVPI_PASSWORD: and DEVPI_PASSWORD_FILE are both set"),
    "missing file": (lambda path: {"DEVPI_PASSWORD_FILE": str(path)}, "DEVPI_PASSWORD_FILE: can't read"),
    "folder": (lambda path: {"DEVPI_PASSWORD_FILE": str(path.parent)}, "not a regular file"),
    "empty file": (lambda path: {"DEVPI_PASSWORD_FILE": str(secret_file(b"")(path))}, "DEVPI_PASSWORD_FILE: is empty"),
    "newline alone": (
        lambda path: {"DEVPI_PASSWORD_FILE": str(secret_file(b"\n")(path))},
        "DEVPI_PASSWORD_FILE: is empty",
    ),
    "two newlines": (lambda path: {"DEVPI_PASSWORD_FILE": str(secret_file(b"geheim\n\n")(path))}, "control"),
    "not UTF-8": (lambda path: {"DEVPI_PASSWORD_FILE": str(secret_file(b"geheim\xff")(path))}, "not UTF-8"),
    "empty": (lambda path: {"DEVPI_PASSWORD": ""}, "DEVPI_PASSWORD: is empty"),
    "control characters": (lambda path: {"DEVPI_PASSWORD": "geheim\x07"}, "DEVPI_PASSWORD: has control"),
    "serverdirs": (lambda path: {"DEVPISERVER_SERVERDIR": "/elsewhere"}, "keep one of them"),
}


@pytest.mark.parametrize(("env", "words"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
def test_bad_settings(container: Make, tmp_path: Path, env: Callable[[Path], dict[str, str]], words: str) -> None:
    """Code 2 with the variable, never the secret; nothing is on disk."""
    bad = container(env=env(tmp_path / "secret"))
    assert SETTINGS == bad.start().wait_end()
    assert words in bad.log
    assert "geheim" not in bad.log
    assert "Traceback" not in bad.log
    assert not bad.serverdir.exists()


def test_unreadable_secret_file(other_user: Make) -> None:
    """Code 2, with the user that must be able to read it."""
    bad = other_user(env={})
    path = secret_file(b"geheim")(bad.home / "secret")
    path.chmod(0o600)
    bad.env["DEVPI_PASSWORD_FILE"] = str(path)
    assert SETTINGS == bad.start().wait_end()
    assert "Permission denied" in bad.log
    assert f"uid {bad.user} can read it" in bad.log
    assert not bad.serverdir.exists()


def test_one_trailing_newline_is_stripped(container: Make, tmp_path: Path) -> None:
    """As editors and `echo` leave it: the password is what precedes it."""
    path = secret_file(b"with a space \n")(tmp_path / "secret")
    new = container(env={"DEVPI_PASSWORD_FILE": str(path)}).start().wait_ready()
    assert (200, 401) == (new.login("root", "with a space "), new.login("root", "with a space"))
    assert "with a space" not in new.log


def test_all_problems_are_reported_together(container: Make, tmp_path: Path) -> None:
    """All mistakes at once, each with its variable."""
    wrong = {
        "DEVPI_PASSWORD": "a\nb",
        "DEVPI_PASSWORD_FILE": "",
        "SIDECAR_ADMIN_TOKEN": "short",
        "SIDECAR_PORT": "99999",
        "SIDECAR_STOP_GRACE": "soon",
        "SIDECAR_ON_IMPORT_FAILURE": "perhaps",
        "SIDECAR_IMPORT_MAX_MEMBERS": "0",
        "DEVPI_INIT_DIR": "relative/path",
        "SIDECAR_LOG_LEVEL": "loud",
    }
    bad = container(env=wrong)
    assert SETTINGS == bad.start().wait_end()
    named = {
        line.removeprefix("error: ").partition(":")[0] for line in bad.log.splitlines() if line.startswith("error: ")
    }
    assert set(wrong) - {"DEVPI_PASSWORD_FILE"} == named
    assert not bad.serverdir.exists()
    assert not bad.runtime.exists()


def test_bad_flags(container: Make) -> None:
    """A flag that devpi-server doesn't have: code 2 with its parser's text, nothing on disk."""
    bad = container(flags=("--no-such-flag", "--port", "0"))
    assert SETTINGS == bad.start().wait_end()
    assert "--no-such-flag" in bad.log
    assert not bad.serverdir.exists()


def test_stopped_before_it_is_ready(container: Make) -> None:
    """SIGTERM as soon as it listens: code 0, and nothing or a complete state is left."""
    new = container().start().wait_listening()
    assert 0 == new.stop(signal.SIGTERM)
    left = entries(new.serverdir) if new.serverdir.exists() else set()
    assert not left or {".nodeinfo", ".sqlite", ".serverversion"} <= left
    new.start().wait_ready()
    wait_for(lambda: new.status()["phase"] == "ready", "the phase")
