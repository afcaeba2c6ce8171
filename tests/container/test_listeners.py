"""`sidecar.container.listeners`: real sockets, bound, passed on and closed."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sidecar.container import listeners as module
from sidecar.container.listeners import Listeners
from sidecar.core.errors import Exit, ExitCode
from sidecar.devpi.protocol import Configured

PATIENCE = 20.0


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse an address in use at once."""
    monkeypatch.setattr(module, "PATIENCE", 0.0)


def tcp(*places: tuple[str, int]) -> Configured:
    """Return what the worker reports for these hosts and ports."""
    families = [socket.AF_INET6 if ":" in host else socket.AF_INET for host, _ in places]
    return configured(
        addresses=[f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}" for host, port in places],
        listen=[
            [int(family), *place, *([0, 0] if family == socket.AF_INET6 else [])]
            for family, place in zip(families, places, strict=True)
        ],
    )


def unix(path: Path | str, mode: int = 0o600) -> Configured:
    """Return what the worker reports for a Unix socket."""
    return configured(addresses=[f"unix:{Path(path).absolute()}"], unix_socket=str(path), unix_socket_mode=mode)


def configured(
    addresses: list[str],
    listen: list[list[object]] | None = None,
    unix_socket: str | None = None,
    unix_socket_mode: int = 0o600,
) -> Configured:
    """Return a `Configured` whose other fields don't matter here."""
    return Configured(
        version="6.0",
        serverdir="/nowhere",
        addresses=addresses,
        listen=listen or [],
        unix_socket=unix_socket,
        unix_socket_mode=unix_socket_mode,
        backlog=1024,
        replica=False,
        storage="sqlite",
        secretfile=None,
        plugins=[],
    )


@pytest.fixture
def bind() -> Iterator[Callable[[Configured], Listeners]]:
    """Listeners that are closed at the end."""
    with ExitStack() as stack:

        def make(what: Configured) -> Listeners:
            listeners = Listeners()
            stack.callback(listeners.close)
            listeners.bind(what)
            return listeners

        yield make


Bind = Callable[[Configured], Listeners]


def names(listeners: Listeners) -> list[tuple[str, int]]:
    """Return host and port of each bound socket."""
    found = []
    for descriptor in listeners.descriptors:
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            found.append(copy.getsockname()[:2])
    return found


def connect(place: tuple[str, int] | Path) -> socket.socket:
    """Return a client's socket. Raises OSError."""
    if not isinstance(place, Path):
        return socket.create_connection(place, PATIENCE)
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    try:
        client.connect(str(place))
    except OSError:
        client.close()
        raise
    return client


@pytest.fixture
def free_port() -> int:
    """A port of 127.0.0.1 without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


# --- TCP --------------------------------------------------------------------------------------------------------------


def test_bound_is_not_yet_listening(bind: Bind) -> None:
    """A client is refused until `listen`, then waits in the kernel's queue; after `close` it is refused again."""
    listeners = bind(tcp(("127.0.0.1", 0)))
    (place,) = names(listeners)
    assert place[1] > 0
    with pytest.raises(ConnectionRefusedError):
        connect(place)
    listeners.listen()
    listeners.listen()
    with connect(place):
        pass
    listeners.close()
    assert () == listeners.descriptors
    with pytest.raises(ConnectionRefusedError):
        connect(place)
    listeners.close()


def test_several_addresses(bind: Bind) -> None:
    """All sockets are there, in order, not inheritable and not blocking."""
    listeners = bind(tcp(("127.0.0.1", 0), ("127.0.0.2", 0), ("127.0.0.1", 0)))
    listeners.listen()
    places = names(listeners)
    assert ["127.0.0.1", "127.0.0.2", "127.0.0.1"] == [host for host, _ in places]
    for place in places:
        connect(place).close()
    assert not any(map(os.get_inheritable, listeners.descriptors))
    assert not any(map(os.get_blocking, listeners.descriptors))


def test_a_copy_goes_on_listening(bind: Bind) -> None:
    """A holder of the descriptors accepts the queued connections after these are closed."""
    listeners = bind(tcp(("127.0.0.1", 0)))
    listeners.listen()
    (place,) = names(listeners)
    with socket.socket(fileno=os.dup(listeners.descriptors[0])) as copy, connect(place) as client:
        listeners.close()
        with connect(place):
            copy.settimeout(PATIENCE)
            accepted, address = copy.accept()
            accepted.close()
            assert client.getsockname() == address


def test_ipv6_takes_no_ipv4(bind: Bind) -> None:
    """As waitress binds it, `::` leaves the same port of 0.0.0.0 to another socket."""
    try:
        listeners = bind(tcp(("::", 0)))
    except Exit as error:
        pytest.skip(f"NOT TESTED: this machine has no IPv6: {error}")
    listeners.listen()
    ((_, port),) = names(listeners)
    with socket.create_connection(("::1", port), PATIENCE):
        pass
    with pytest.raises(ConnectionRefusedError):
        connect(("127.0.0.1", port))
    other = bind(tcp(("0.0.0.0", port)))
    other.listen()
    with connect(("127.0.0.1", port)):
        pass


def test_a_port_in_use(bind: Bind) -> None:
    """Exit code 69 with address, the system's reason and the flag; what was bound before can be closed."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Exit) as refused:
            bind(tcp(("127.0.0.2", 0), ("127.0.0.1", port)))
    assert ExitCode.PORT_IN_USE == refused.value.code
    assert f"devpi-server can't listen on http://127.0.0.1:{port}: Address already in use" == refused.value.reason
    assert "free the port, or choose another one with --port" == refused.value.hint


@pytest.mark.parametrize("kind", ["TCP", "Unix"])
def test_a_server_that_is_about_to_be_gone(bind: Bind, path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed server's lock is released a moment before its sockets."""
    monkeypatch.setattr(module, "PATIENCE", PATIENCE)
    with socket.socket(socket.AF_UNIX if kind == "Unix" else socket.AF_INET) as dying:
        dying.bind(str(path) if kind == "Unix" else ("127.0.0.1", 0))
        dying.listen()
        tried = module._bound

        def bound(family: int, address: tuple[str | int, ...] | str) -> socket.socket:
            try:
                return tried(family, address)
            finally:
                dying.close()

        seen = module._make_way

        def make_way(path: str) -> None:
            try:
                seen(path)
            finally:
                dying.close()

        monkeypatch.setattr(module, "_bound", bound)
        monkeypatch.setattr(module, "_make_way", make_way)
        bind(unix(path) if kind == "Unix" else tcp(dying.getsockname())).listen()


def test_an_address_of_another_machine(bind: Bind) -> None:
    """Code 69 too."""
    with pytest.raises(Exit, match="Cannot assign requested address") as refused:
        bind(tcp(("198.51.100.1", 0)))
    assert ExitCode.PORT_IN_USE == refused.value.code


def test_two_that_are_bound_and_one_that_listens(bind: Bind, free_port: int) -> None:
    """SO_REUSEADDR lets both bind: the second to listen gets the error that the port is in use."""
    one, other = bind(tcp(("127.0.0.1", free_port))), bind(tcp(("127.0.0.1", free_port)))
    one.listen()
    with pytest.raises(Exit, match="Address already in use") as refused:
        other.listen()
    assert ExitCode.PORT_IN_USE == refused.value.code
    connect(("127.0.0.1", free_port)).close()


def test_a_port_with_connections_that_are_closing(bind: Bind) -> None:
    """TIME_WAIT, as left by a server that has just exited, is no reason to wait."""
    first = bind(tcp(("127.0.0.1", 0)))
    first.listen()
    (place,) = names(first)
    with connect(place) as client, socket.socket(fileno=os.dup(first.descriptors[0])) as copy:
        copy.settimeout(PATIENCE)
        accepted, _ = copy.accept()
        accepted.close()  # close first, so that this side is in TIME_WAIT
        assert b"" == client.recv(1)
    first.close()
    second = bind(tcp(place))
    second.listen()
    connect(place).close()


def test_nothing_is_bound(free_port: int) -> None:
    """A stop before the flags are parsed: nothing to listen on, nothing to close."""
    listeners = Listeners()
    listeners.listen()
    listeners.close()
    assert () == listeners.descriptors


# --- Unix -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short path for a socket: the kernel's limit is 107 bytes."""
    monkeypatch.chdir(tmp_path)
    return Path("devpi.sock")


def stale(path: Path) -> None:
    """A socket file as a killed server leaves it."""
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
        killed.listen()


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_a_unix_socket(bind: Bind, path: Path, mode: int) -> None:
    """It has the requested permissions, refuses until `listen`, and is removed by `close`."""
    listeners = bind(unix(path, mode))
    assert mode == stat.S_IMODE(path.stat().st_mode)
    assert path.is_socket()
    with pytest.raises(ConnectionRefusedError):
        connect(path)
    listeners.listen()
    with connect(path), socket.socket(fileno=os.dup(listeners.descriptors[0])) as copy:
        copy.settimeout(PATIENCE)
        copy.accept()[0].close()
        listeners.close()
        assert not path.exists()
        with pytest.raises(FileNotFoundError):
            connect(path)


def test_a_stale_socket_is_replaced(bind: Bind, path: Path) -> None:
    """A socket without a listener is replaced."""
    stale(path)
    listeners = bind(unix(path))
    listeners.listen()
    connect(path).close()


@pytest.mark.parametrize("full", [False, True], ids=["accepting", "with a full queue"])
def test_a_live_socket_is_not_taken(bind: Bind, path: Path, full: bool) -> None:
    """Code 69: its server continues, and keeps its file."""
    with ExitStack() as stack:
        live = stack.enter_context(socket.socket(socket.AF_UNIX))
        live.bind(str(path))
        live.listen(0)
        if full:
            stack.enter_context(connect(path))
        inode = path.stat().st_ino
        with pytest.raises(Exit) as refused:
            bind(unix(path))
        assert ExitCode.PORT_IN_USE == refused.value.code
        assert f"devpi-server can't listen on unix:{path.absolute()}: Address already in use" == refused.value.reason
        assert "--unix-socket" in refused.value.hint
        assert inode == path.stat().st_ino
        live.settimeout(PATIENCE)
        live.accept()[0].close()
        connect(path).close()


def test_a_socket_of_another_kind_may_be_somebodys(bind: Bind, path: Path) -> None:
    """A socket that can't be probed may have a listener: syslog's, for example."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(path))
        with pytest.raises(Exit, match=os.strerror(errno.EPROTOTYPE)) as refused:
            bind(unix(path))
        assert ExitCode.PORT_IN_USE == refused.value.code
        assert path.is_socket()


def regular(path: Path) -> None:
    path.write_text("keep")


def folder(path: Path) -> None:
    path.mkdir()


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [regular, folder, dangling])
def test_what_is_no_socket_stays(bind: Bind, path: Path, make: Callable[[Path], None]) -> None:
    """Code 69; nothing is removed, also not at the end."""
    make(path)
    before = path.lstat()
    listeners = Listeners()
    with pytest.raises(Exit, match="Address already in use") as refused:
        listeners.bind(unix(path))
    assert ExitCode.PORT_IN_USE == refused.value.code
    listeners.close()
    after = path.lstat()  # its atime may be another: binding has read the link
    assert (before.st_ino, before.st_mode, before.st_mtime_ns) == (after.st_ino, after.st_mode, after.st_mtime_ns)


@pytest.mark.parametrize(
    ("name", "reason"), [("gone/devpi.sock", "No such file or directory"), ("x" * 200, "path too long"), ("\0", "null")]
)
def test_paths_at_which_nothing_can_be(bind: Bind, path: Path, name: str, reason: str) -> None:
    """Code 69, whatever the system or Python reports."""
    with pytest.raises(Exit, match=reason) as refused:
        bind(unix(name))
    assert ExitCode.PORT_IN_USE == refused.value.code


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to(bind: Bind, path: Path) -> None:
    """EACCES is code 69, with the system's reason."""
    path.absolute().parent.chmod(0o500)
    try:
        with pytest.raises(Exit, match="Permission denied") as refused:
            bind(unix(path))
    finally:
        path.absolute().parent.chmod(0o700)
    assert ExitCode.PORT_IN_USE == refused.value.code


def test_a_file_that_is_another_servers_stays(bind: Bind, path: Path) -> None:
    """If it was removed and recreated meanwhile, `close` removes only its own."""
    listeners = bind(unix(path))
    listeners.listen()
    path.unlink()
    stale(path)
    listeners.close()
    assert path.is_socket()


def test_of_two_that_wait_one_gets_the_socket(bind: Bind, path: Path) -> None:
    """Neither listens during its import, so each looks dead to the other: the first to listen gets it."""
    one, other = bind(unix(path)), bind(unix(path, 0o660))
    one.listen()
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    with pytest.raises(Exit, match="Address already in use"):
        other.listen()
    connect(path).close()
    other.close()
    connect(path).close()


def test_a_file_that_was_removed_meanwhile(bind: Bind, path: Path) -> None:
    """A cleanup of /run removed it during an import: it is recreated."""
    listeners = bind(unix(path))
    path.unlink()
    listeners.listen()
    connect(path).close()
