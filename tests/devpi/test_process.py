"""`sidecar.devpi.process` and `sidecar.worker.__main__`: a real child, its messages, and its exits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.container.listeners import Listeners
from sidecar.core.errors import ExitCode
from sidecar.devpi import process as child_module
from sidecar.devpi.process import Child, ChildEnded, SetFailed
from sidecar.devpi.protocol import (
    Configure,
    Configured,
    Done,
    Drain,
    Drained,
    Initialise,
    Listening,
    Prepared,
    PrepareFailed,
    Refused,
    Serve,
)
from sidecar.devpi.spawn import spawn
from sidecar.storage.inspection import Content, Storage
from sidecar.storage.serverdir import Serverdir
from sidecar.worker import __main__ as launcher
from tests.support import needs

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 180.0
"""Seconds after which a wait of a test counts as failed."""
FLAGS = ["--host", "127.0.0.1", "--port", "0", "--no-root-pypi", "--offline-mode", "--threads", "4"]
PASSWORD = "correct horse battery"


class Running:
    """A child, the task that listens to it, and its folders."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.serverdir = home / "serverdir"
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        self.listeners = Listeners()
        self.child = Child(spawn(kept | {"HOME": str(home)}))
        self._listener = asyncio.create_task(self.child.listen())
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def _reap(self) -> None:
        if self.child._process.returncode is None:
            pid, status = os.waitpid(self.child.pid, os.WNOHANG)
            if pid:
                self.child.reaped(status)

    async def configure(self, *flags: str) -> Configured | Refused | Done:
        """Have it parse flags; a wrong setting for nothing."""
        await self.child.send(Configure(list(flags or FLAGS), str(self.serverdir), "/default", None, "root"))
        answer = await self.child.expect(Configured, Refused, Done)
        if isinstance(answer, Configured) and not self.listeners.descriptors:
            self.listeners.bind(answer)
        return answer

    async def initialise(self, password: str = PASSWORD) -> Prepared | PrepareFailed:
        """Have it make a state."""
        await self.child.send(Initialise(str(self.serverdir), password))
        return await self.child.expect(Prepared, PrepareFailed)

    async def serve(self, **changes: object) -> Listening:
        """Have it serve the state on the configured sockets, with its own login secret."""
        secretfile = self.home / "login-secret"
        if not secretfile.exists():
            secretfile.write_text(secrets.token_hex(32))
            secretfile.chmod(0o600)
        (self.home / "tmp").mkdir(exist_ok=True)
        request = Serve(
            secretfile=str(secretfile),
            cheap_derivation=True,
            tmpdir=str(self.home / "tmp"),
            known_root_hash=None,
            probe_secret=secrets.token_hex(16),
        )
        self.listeners.listen()
        await self.child.serve(replace(request, **changes), self.listeners.descriptors)  # type: ignore[arg-type]
        return await self.child.expect(Listening)

    async def clear_away(self) -> None:
        """Leave no process, task or socket behind."""
        self.child.signal(signal.SIGKILL)
        await self.child.exited()
        self._listener.cancel()
        await asyncio.gather(self._listener, return_exceptions=True)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)
        self.child._socket.close()
        self.listeners.close()


@asynccontextmanager
async def started(home: Path) -> AsyncIterator[Running]:
    """A child that was started and got no message yet; killed at the end in any case."""
    running = Running(home)
    try:
        async with asyncio.timeout(PATIENCE):
            yield running
    finally:
        await running.clear_away()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """See `started`."""
    async with started(tmp_path) as running:
        yield running


def login(address: str, password: str) -> int:
    """Return the HTTP status of a login as root."""
    call = urllib.request.Request(
        f"{address}/+login",
        data=json.dumps({"user": "root", "password": password}).encode(),
        headers={"Content-Type": "application/json", "Accept": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(call, timeout=PATIENCE) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def state_of(pid: int) -> str | None:
    """Return the kernel's letter for the state of a process; None if it does not exist."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def wait_until_dead(pid: int) -> None:
    """Wait for the exit of a process that isn't our child."""
    deadline = time.monotonic() + PATIENCE
    while state_of(pid) not in (None, "Z", "X"):
        assert time.monotonic() < deadline, f"process {pid} lives on, state {state_of(pid)}"
        time.sleep(0.01)


def child_of(pid: int) -> int:
    """Return the child of a process, as soon as it has one."""
    deadline = time.monotonic() + PATIENCE
    while not (children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        assert time.monotonic() < deadline, f"process {pid} has no child"
    return int(children[0])


# --- flags ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--no-such-flag"], "unrecognized arguments: --no-such-flag"),
        (["--storage", "no-such-storage"], "no-such-storage"),
    ],
)
async def test_flags_that_are_refused(running: Running, flags: list[str], reason: str) -> None:
    """With reason and hint; the child exits with code 2, and nothing was made."""
    answer = await running.configure(*flags)
    assert isinstance(answer, Refused)
    assert reason in answer.reason
    assert answer.hint
    assert await running.child.exited() == ExitCode.SETTINGS
    assert list(running.home.iterdir()) == []


@pytest.mark.parametrize(("flag", "text"), [("--help", "--no-root-pypi"), ("--version", "6.")])
async def test_a_text_is_asked_for(capfd: pytest.CaptureFixture[str], tmp_path: Path, flag: str, text: str) -> None:
    """The text is printed, and the child exits with code 0."""
    async with started(tmp_path) as running:  # here, because it writes to the stdout of its start
        assert isinstance(await running.configure(flag), Done)
        assert await running.child.exited() == ExitCode.STOPPED
    assert text in capfd.readouterr().out


async def test_what_the_flags_mean(running: Running) -> None:
    """Version, serverdir and addresses are reported before anything is made."""
    answer = await running.configure()
    assert isinstance(answer, Configured)
    assert (answer.serverdir, answer.addresses) == (str(running.serverdir), ["http://127.0.0.1:0"])
    assert (answer.storage, answer.replica, answer.secretfile) == ("sqlite", False, None)
    assert answer.version.startswith("6.")
    assert list(running.home.iterdir()) == []


# --- the whole way --------------------------------------------------------------------------------------------------


async def test_initialise_serve_set_the_password_and_drain(running: Running) -> None:
    """A child's life: a complete state, a server that answers, a new root password, an exit with code 0."""
    assert isinstance(await running.configure(), Configured)
    prepared = await running.initialise()
    assert isinstance(prepared, Prepared)
    assert prepared.root_password == "password"
    serverdir = Serverdir(running.serverdir, Storage("sqlite"))
    running.child.hand_over_lock(serverdir.open())
    assert serverdir.examine() is Content.FOREIGN

    listening = await running.serve(known_root_hash=prepared.root_hash)
    assert isinstance(listening, Listening)
    assert (listening.role, listening.root_password) == ("standalone", "set")
    assert listening.root_hash == prepared.root_hash
    (address,) = listening.addresses
    assert await asyncio.to_thread(login, address, PASSWORD) == 200

    root_hash = await running.child.set_root_password("another one", secretfile_changed=False)
    assert root_hash is not None
    assert root_hash != prepared.root_hash
    assert await asyncio.to_thread(login, address, PASSWORD) == 401
    assert await asyncio.to_thread(login, address, "another one") == 200

    serverdir.lock.release()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sidecar.storage.lock.PATIENCE", 0.0)
        with pytest.raises(Exception, match="in use by another server"):
            Serverdir(running.serverdir, Storage("sqlite")).open()

    await running.child.send(Drain(5))
    assert (await running.child.expect(Drained)).cut == 0
    assert await running.child.exited() == ExitCode.STOPPED


async def test_a_server_that_is_killed(running: Running) -> None:
    """`ChildEnded` with minus the signal, for pending and later calls; no password is set any more."""
    assert isinstance(await running.configure(), Configured)
    assert isinstance(await running.initialise(), Prepared)
    listening = await running.serve(new_root_password="set before listening")
    assert isinstance(listening, Listening)
    assert await asyncio.to_thread(login, listening.addresses[0], "set before listening") == 200
    os.kill(running.child.pid, signal.SIGSTOP)  # so that the request below is not answered
    setting = asyncio.create_task(running.child.set_root_password("never", secretfile_changed=False))
    waiting = asyncio.create_task(running.child.expect(Drained))
    await asyncio.sleep(0)
    running.child.signal(signal.SIGKILL)
    with pytest.raises(SetFailed) as failed:
        await setting
    assert failed.value.maybe_done
    for waits in (waiting, running.child.expect(Drained)):
        with pytest.raises(ChildEnded) as ended:
            await waits
        assert ended.value.code == -signal.SIGKILL
    assert await running.child.exited() == -signal.SIGKILL
    with pytest.raises(SetFailed, match="has exited") as failed:
        await running.child.set_root_password("never", secretfile_changed=False)
    assert not failed.value.maybe_done
    await running.child.send(Drain(1))  # no process receives it, and nothing raises
    running.child.signal(signal.SIGTERM)


def ask(address: str) -> socket.socket:
    """A client that has connected and sent a request."""
    if address.startswith("unix:"):
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(address.removeprefix("unix:"))
        except OSError:
            client.close()
            raise
    else:
        host, _, port = address.removeprefix("http://").rpartition(":")
        client = socket.create_connection((host, int(port)))
    client.settimeout(PATIENCE)
    client.sendall(b"GET /+api HTTP/1.0\r\nHost: x\r\n\r\n")
    return client


@pytest.mark.parametrize("unix", [False, True], ids=["TCP", "Unix"])
async def test_sockets_outlive_a_server(tmp_path: Path, unix: bool) -> None:
    """A drain for a restart closes none: a client that connects meanwhile waits, and the next server answers it."""
    flags = ["--unix-socket", str(tmp_path / "sock"), *FLAGS[4:]] if unix else FLAGS
    async with started(tmp_path) as first:
        assert isinstance(await first.configure(*flags), Configured)
        assert isinstance(await first.initialise(), Prepared)
        (address,) = (await first.serve()).addresses
        await first.child.send(Drain(5, keep_listening=True))
        assert (await first.child.expect(Drained)).cut == 0
        assert await first.child.exited() == ExitCode.STOPPED
        with ask(address) as client:
            async with started(tmp_path) as second:
                second.listeners = first.listeners
                assert isinstance(await second.configure(*flags), Configured)
                assert [address] == (await second.serve()).addresses
                answer = await asyncio.to_thread(client.makefile("rb").read)
                assert answer.startswith(b"HTTP/1.0 200 ")
                second.listeners.close()
                await second.child.send(Drain(5))
                assert (await second.child.expect(Drained)).cut == 0
                with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
                    ask(address)


async def test_sockets_come_last(running: Running) -> None:
    """The child has none while it prepares, and none that a program started by it would inherit."""
    needs.root("look at the descriptors of a process that is not dumpable")
    assert isinstance(await running.configure(), Configured)
    inode = os.fstat(running.listeners.descriptors[0]).st_ino
    folder = Path(f"/proc/{running.child.pid}")

    def flags_of_it() -> list[int]:
        names = []
        for fd in (folder / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                names += [fd.name] if f"socket:[{inode}]" == str(fd.readlink()) else []
        texts = [(folder / "fdinfo" / name).read_text() for name in names]
        return [int(line.split()[1], 8) for text in texts for line in text.splitlines() if line.startswith("flags:")]

    assert isinstance(await running.initialise(), Prepared)
    assert [] == flags_of_it()
    assert not os.get_inheritable(running.listeners.descriptors[0])
    await running.serve()
    (flags,) = flags_of_it()
    assert flags & os.O_CLOEXEC


async def test_no_answer_to_a_new_password(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a timeout it is unknown whether it was set, and reported so."""
    monkeypatch.setattr(child_module, "SET_PASSWORD_TIMEOUT", 0.1)
    with pytest.raises(SetFailed, match="no answer from devpi-server") as failed:
        await running.child.set_root_password("x", secretfile_changed=False)  # it is still importing devpi
    assert failed.value.maybe_done


# --- the end of the sidecar -----------------------------------------------------------------------------------------

PARENT = """
import asyncio, os, sys, time
from sidecar.devpi.process import Child
from sidecar.devpi.protocol import Configure, Configured
from sidecar.devpi.spawn import spawn

async def main():
    child = Child(spawn(os.environ))
    listener = asyncio.create_task(child.listen())
    await child.send(Configure(["--port", "0"], sys.argv[1], "/default", None, "root"))
    await child.expect(Configured)
    print(child.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("stopped", [False, True])
def test_a_child_dies_with_its_parent(tmp_path: Path, stopped: bool) -> None:
    """SIGKILL leaves no devpi-server behind, not even one that can't notice that its sidecar was killed."""
    command = [sys.executable, "-c", PARENT, str(tmp_path / "serverdir")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        try:
            assert state_of(pid) not in (None, "Z")
            if stopped:
                os.kill(pid, signal.SIGSTOP)
            parent.kill()
            parent.wait(PATIENCE)
            wait_until_dead(pid)
        finally:
            parent.kill()
            if state_of(pid) not in (None, "Z"):
                os.kill(pid, signal.SIGKILL)


async def test_a_sidecar_that_hangs_up(running: Running) -> None:
    """A child whose parent lives but has closed its end exits."""
    assert isinstance(await running.configure(), Configured)
    running.child._socket.shutdown(2)
    assert await running.child.exited() == ExitCode.INTERNAL


# --- the fork that prepares -----------------------------------------------------------------------------------------


async def test_a_preparation_that_is_killed(running: Running) -> None:
    """As the kernel does if memory is short: the answer reports it, and the child lives on and can retry."""
    assert isinstance(await running.configure(), Configured)
    await running.child.send(Initialise(str(running.serverdir), PASSWORD))
    os.kill(await asyncio.to_thread(child_of, running.child.pid), signal.SIGKILL)
    answer = await running.child.expect(Prepared, PrepareFailed)
    assert isinstance(answer, PrepareFailed)
    assert answer.reason == "the preparing process was killed (SIGKILL), most likely for lack of memory"
    assert "raise the memory limit" in answer.hint
    running.serverdir = running.home / "again"
    assert isinstance(await running.initialise(), Prepared)


async def test_a_preparation_that_devpi_refuses(running: Running) -> None:
    """A target that holds a state already: it is not overwritten."""
    assert isinstance(await running.configure(), Configured)
    assert isinstance(await running.initialise(), Prepared)
    before = (running.serverdir / ".nodeinfo").read_bytes()
    answer = await running.initialise()
    assert isinstance(answer, PrepareFailed)
    assert answer.hint
    assert (running.serverdir / ".nodeinfo").read_bytes() == before


FORK = """
import os, resource, signal, sys, time
from sidecar.worker.__main__ import _in_a_fork
from sidecar.devpi.protocol import Prepared

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

def prepare(how):
    if how.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(60)
    if how == "exit":
        os._exit(0)
    if how == "error":
        raise RuntimeError("broken")
    return Prepared("password", "a" * 100_000)

print(repr(_in_a_fork(prepare, sys.argv[1]))[:1000])
"""


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("answer", "Prepared(root_password='password', root_hash='aaaa"),
        ("SIGKILL", "killed (SIGKILL), most likely for lack of memory"),
        ("SIGSEGV", "the preparing process was terminated by SIGSEGV"),
        ("SIGTERM", "the preparing process was terminated by SIGTERM"),
        ("exit", "the preparing process exited without a result"),
        ("error", "the preparing process exited without a result"),
    ],
)
def test_every_end_of_a_preparation_is_told(how: str, said: str) -> None:
    """An answer, a signal, an exit, an unexpected error: each is reported to the sidecar."""
    done = subprocess.run(
        [sys.executable, "-c", FORK, how], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert done.stdout.startswith("Prepared(" if how == "answer" else "PrepareFailed(")


FORK_OUTLIVED = """
import sys, time
from sidecar.worker.__main__ import _in_a_fork

def prepare():
    import os
    print(os.getpid(), flush=True)
    time.sleep(600)

_in_a_fork(prepare)
"""


def test_a_preparation_dies_with_its_parent() -> None:
    """An import of an hour doesn't continue without a sidecar."""
    command = [sys.executable, "-c", FORK_OUTLIVED]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        wait_until_dead(pid)


FORK_ORPHANED = """
import os, sys, time
from sidecar.worker import __main__ as launcher

die_with_parent = launcher.die_with_parent

def late(parent):
    print(os.getpid(), flush=True)
    while os.getppid() == parent:
        time.sleep(0.01)
    die_with_parent(parent)

def prepare():
    open(sys.argv[1], "w").close()
    time.sleep(600)

launcher.die_with_parent = late
launcher._in_a_fork(prepare)
"""


def test_a_preparation_whose_parent_died_before_it_began(tmp_path: Path) -> None:
    """Adopted by another process before it asks for its parent, it exits and prepares nothing."""
    command = [sys.executable, "-c", FORK_ORPHANED, str(tmp_path / "prepares")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        try:
            wait_until_dead(pid)
        finally:
            if state_of(pid) not in (None, "Z"):
                os.kill(pid, signal.SIGKILL)
    assert not (tmp_path / "prepares").exists()


# --- versions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["6.20.0", "6.20.3", "6.20.3.post1", "6.21.0", "6.99", "6.20.0.dev1"])
def test_versions_that_are_known(version: str) -> None:
    """From 6.20 to below 7."""
    assert launcher.unsupported(version) is None


@pytest.mark.parametrize("version", ["7.0.0", "7.0.0rc1", "10.0", "6.19.9", "6.2.0", "5.5.1", "6", "unknown", ""])
def test_versions_that_are_not_known(version: str) -> None:
    """Refused with the version, the range, and both solutions."""
    refused = launcher.unsupported(version)
    assert refused is not None
    assert f"devpi-server {version} is installed" in refused.reason
    assert ">=6.20,<7" in refused.reason
    assert "install a devpi-server in that range" in refused.hint


def test_the_installed_version_is_known() -> None:
    """The one that these tests run with."""
    import devpi_server

    assert launcher.unsupported(devpi_server.__version__) is None
