"""`sidecar.worker.flags`: devpi-server's flags, parsed by its own parser before anything on disk is touched."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from devpi_server.config import get_pluginmanager
from devpi_server.main import Fatal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pluggy import PluginManager

from sidecar.devpi.protocol import Configure
from sidecar.worker import flags
from sidecar.worker.flags import CHEAP_DERIVATION, FlagsRefused, ServerFlags, SilenceProbe

DEFAULT = "/default/serverdir"
ALL_DEFAULTS = (
    *("--serverdir", DEFAULT, "--host", "0.0.0.0"),
    *("--keyfs-cache-size", "200", "--restrict-modify", "root"),
)

Understand = Callable[..., ServerFlags]


@pytest.fixture(scope="module")
def plugins() -> PluginManager:
    """devpi's own plugin manager, with the installed plugins."""
    return get_pluginmanager(load_entrypoints=True)


@pytest.fixture(autouse=True)
def _quiet_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No DEVPISERVER_*, no configuration file of this machine, and no name service."""
    for name in [name for name in os.environ if name.startswith(("DEVPI", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "etc"))
    resolve = socket.getaddrinfo

    def numeric(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
        if host not in (None, "localhost"):
            flags |= socket.AI_NUMERICHOST
        return resolve(host, port, family, type, proto, flags)

    monkeypatch.setattr(socket, "getaddrinfo", numeric)


@pytest.fixture
def understand(plugins: PluginManager) -> Iterator[Understand]:
    """Call `flags.understand` with a new probe, as the worker does."""

    def call(
        *argv: str,
        serverdir: str | None = None,
        port: int | None = None,
        restrict_modify: str = "root",
        sidecar: tuple[str, int] = ("0.0.0.0", 0),
        root_pypi: bool | None = None,
    ) -> ServerFlags:
        probe = SilenceProbe()
        plugins.register(probe)
        try:
            request = Configure(list(argv), serverdir, DEFAULT, port, restrict_modify, *sidecar, root_pypi=root_pypi)
            return flags.understand(request, plugins, probe)
        finally:
            plugins.unregister(probe)

    yield call
    assert not any(isinstance(plugin, SilenceProbe) for plugin in plugins.get_plugins())


@pytest.fixture
def configuration(tmp_path: Path) -> Callable[..., str]:
    """Write a configuration file for devpi, and return its name."""

    def write(*lines: str, raw: bytes | None = None) -> str:
        path = tmp_path / "devpi.yml"
        path.write_bytes(
            raw if raw is not None else "\n".join(["devpi-server:", *(f"  {each}" for each in lines)]).encode()
        )
        return str(path)

    return write


def added(found: ServerFlags, *argv: str) -> tuple[str, ...]:
    """Return the defaults that follow the operator's flags, which are unchanged."""
    assert found.argv[: len(argv) + 1] == ("devpi-server", *argv)
    return found.argv[len(argv) + 1 :]


# --- defaults, if nothing else sets a value ---------------------------------------------------------------------------


def test_all_silent(understand: Understand) -> None:
    """The default command, on devpi's own port."""
    found = understand()
    assert added(found) == ALL_DEFAULTS
    assert found.serverdir == Path(DEFAULT)
    assert found.listen.addresses == ("http://0.0.0.0:3141",)
    assert found.storage == "sqlite"
    assert (found.replica, found.primary_url, found.secretfile) == (False, None, None)
    assert (found.no_root_pypi, found.own_derivation, found.version_asked) == (False, False, False)


def test_settings_take_the_place_of_defaults(understand: Understand) -> None:
    """DEVPI_SERVERDIR, DEVPI_PORT, DEVPI_RESTRICT_MODIFY; if the last one is empty, there is no restriction."""
    found = understand(serverdir="/srv", port=8000, restrict_modify=":devs,root")
    assert found.serverdir == Path("/srv")
    assert found.listen.addresses == ("http://0.0.0.0:8000",)
    assert added(found)[-2:] == ("--restrict-modify", ":devs,root")
    assert "--restrict-modify" not in understand(restrict_modify="").argv


@pytest.mark.parametrize(
    ("argv", "addresses"),
    [
        (["--port", "8000"], ["http://0.0.0.0:8000"]),
        (["--port=8000"], ["http://0.0.0.0:8000"]),
        (["--port", "0"], ["http://0.0.0.0:0"]),
        (["--host", "127.0.0.1"], ["http://127.0.0.1:3141"]),
        (["--host", "::1", "--port", "8000"], ["http://[::1]:8000"]),
        (["--listen", "127.0.0.1:8000"], ["http://127.0.0.1:8000"]),
        (["--listen", "127.0.0.1:1", "--listen", "[::1]:2"], ["http://127.0.0.1:1", "http://[::1]:2"]),
        (["--unix-socket", "/run/devpi.sock"], ["unix:/run/devpi.sock"]),
        (["--port", "1", "--port", "2"], ["http://0.0.0.0:2"]),
    ],
)
def test_where_it_listens(understand: Understand, argv: list[str], addresses: list[str]) -> None:
    """As waitress interprets the flags; the default host only without --listen and --unix-socket."""
    found = understand(*argv)
    assert list(found.listen.addresses) == addresses
    assert ("--host" in added(found, *argv)) == (not {"--host", "--listen", "--unix-socket"} & set(argv))


def test_what_is_bound(understand: Understand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Family, host and port for TCP; for a Unix socket the path as it was written, and the permissions."""
    found = understand("--listen", "127.0.0.1:1", "--listen", "[::1]:2").listen
    assert ((socket.AF_INET, ("127.0.0.1", 1)), (socket.AF_INET6, ("::1", 2, 0, 0))) == found.tcp
    assert (None, 1024) == (found.unix_socket, found.backlog)
    monkeypatch.chdir(tmp_path)
    found = understand("--unix-socket", "devpi.sock").listen
    assert ((), "devpi.sock", 0o600) == (found.tcp, found.unix_socket, found.unix_socket_mode)
    assert (f"unix:{tmp_path}/devpi.sock",) == found.addresses
    assert 0o660 == understand("--unix-socket", "devpi.sock", "--unix-socket-perms", "660").listen.unix_socket_mode


def test_more_addresses_than_the_kernel_passes_on(understand: Understand) -> None:
    """Refused as an error in the flags, before anything is bound."""
    argv = [f"--listen=127.0.0.1:{port}" for port in range(1, 255)]
    assert 253 == len(understand(*argv[:253]).listen.addresses)
    with pytest.raises(FlagsRefused, match="can't listen on 254 addresses"):
        understand(*argv)


@pytest.mark.parametrize(
    ("host", "argv", "clash"),
    [
        ("0.0.0.0", (), True),
        ("127.0.0.1", (), True),
        ("::1", (), False),
        ("::", (), True),
        ("::", ("--host", "127.0.0.1"), True),
        ("::", ("--host", "::1"), True),
        ("::1", ("--host", "::"), True),
        ("0.0.0.0", ("--host", "::"), False),
        ("127.0.0.1", ("--host", "127.0.0.2"), False),
        ("0.0.0.0", ("--listen", "127.0.0.1:1", "--listen", "127.0.0.1:3141"), True),
        ("0.0.0.0", ("--port", "3142"), False),
        ("0.0.0.0", ("--unix-socket", "/run/devpi.sock"), False),
    ],
)
def test_one_port_for_two(understand: Understand, host: str, argv: tuple[str, ...], clash: bool) -> None:
    """Refused if the kernel would refuse the second socket; devpi-server's `::` is only IPv6, the sidecar's is both."""
    if not clash:
        understand(*argv, sidecar=(host, 3141))
        return
    with pytest.raises(FlagsRefused, match="can't both listen on port 3141") as caught:
        understand(*argv, sidecar=(host, 3141))
    assert "SIDECAR_PORT" in caught.value.hint


@pytest.mark.parametrize(
    ("argv", "silent"),
    [
        (["--serverdir", "/srv"], "--serverdir"),
        (["--serverd=/srv"], "--serverdir"),
        (["--hos", "127.0.0.1"], "--host"),
        (["--keyfs-cache", "10000"], "--keyfs-cache-size"),
        (["--restrict", "alice"], "--restrict-modify"),
        (["--restrict-modify", ""], "--restrict-modify"),
    ],
)
def test_a_flag_keeps_its_default_away(understand: Understand, argv: list[str], silent: str) -> None:
    """Abbreviated or not, empty or not: this default is not added, the others are."""
    found = understand(*argv)
    kept = tuple(zip(ALL_DEFAULTS[::2], ALL_DEFAULTS[1::2], strict=True))
    assert added(found, *argv) == tuple(word for pair in kept if pair[0] != silent for word in pair)


@pytest.mark.parametrize("abbreviated", [["--por", "8000"], ["--por=8000"]])
def test_abbreviations_are_understood(understand: Understand, abbreviated: list[str]) -> None:
    """And they are passed on as the operator wrote them."""
    found = understand(*abbreviated)
    assert found.listen.addresses == ("http://0.0.0.0:8000",)
    assert added(found, *abbreviated) == ALL_DEFAULTS


@pytest.mark.parametrize(
    ("name", "value", "silent", "expected"),
    [
        ("SERVERDIR", "/srv", "--serverdir", "/srv http://0.0.0.0:3141"),
        ("PORT", "8000", None, f"{DEFAULT} http://0.0.0.0:8000"),
        ("HOST", "127.0.0.1", "--host", f"{DEFAULT} http://127.0.0.1:3141"),
        ("LISTEN", "127.0.0.1:8000", "--host", f"{DEFAULT} http://127.0.0.1:8000"),
        ("UNIX_SOCKET", "/run/x", "--host", f"{DEFAULT} unix:/run/x"),
        ("RESTRICT_MODIFY", "alice", "--restrict-modify", f"{DEFAULT} http://0.0.0.0:3141"),
        ("KEYFS_CACHE_SIZE", "1000", "--keyfs-cache-size", f"{DEFAULT} http://0.0.0.0:3141"),
        ("THREADS", "8", None, f"{DEFAULT} http://0.0.0.0:3141"),
    ],
)
def test_devpis_environment(
    understand: Understand,
    monkeypatch: pytest.MonkeyPatch,
    configuration: Callable[..., str],
    name: str,
    value: str,
    silent: str | None,
    expected: str,
) -> None:
    """DEVPISERVER_* and the configuration file override a default; an empty variable does not."""
    argv = ("--configfile", configuration(f"{name.lower().replace('_', '-')}: {value}"))
    monkeypatch.setenv(f"DEVPISERVER_{name}", "")
    assert added(understand()) == ALL_DEFAULTS
    by_file = understand(*argv)
    monkeypatch.setenv(f"DEVPISERVER_{name}", value)
    by_environment = understand()
    for found, rest in ((by_environment, added(by_environment)), (by_file, added(by_file, *argv))):
        assert f"{found.serverdir} {' '.join(found.listen.addresses)}" == expected
        assert rest[::2] == tuple(flag for flag in ALL_DEFAULTS[::2] if flag != silent)


def test_flag_over_environment_over_file(
    understand: Understand, monkeypatch: pytest.MonkeyPatch, configuration: Callable[..., str]
) -> None:
    """devpi's own order."""
    argv = ("-c", configuration("port: 1", "host: 127.0.0.1"))
    assert understand(*argv).listen.addresses == ("http://127.0.0.1:1",)
    monkeypatch.setenv("DEVPISERVER_PORT", "2")
    assert understand(*argv).listen.addresses == ("http://127.0.0.1:2",)
    assert understand(*argv, "--port", "3").listen.addresses == ("http://127.0.0.1:3",)


def test_a_configuration_file_that_devpi_finds_by_itself(understand: Understand, tmp_path: Path) -> None:
    """The one in the user's configuration folder counts, too."""
    folder = tmp_path / "home" / ".config" / "devpi-server"
    folder.mkdir(parents=True)
    (folder / "devpi-server.yml").write_text("devpi-server:\n  port: 8000\n  serverdir: /from/file\n")
    found = understand()
    assert found.listen.addresses == ("http://0.0.0.0:8000",)
    assert found.serverdir == Path("/from/file")


# --- root/pypi --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("root_pypi", [True, False])
def test_root_pypi_by_its_variable(understand: Understand, root_pypi: bool) -> None:
    """DEVPI_ROOT_PYPI decides if devpi's flags don't, and changes nothing in them."""
    found = understand(root_pypi=root_pypi)
    assert found.no_root_pypi is not root_pypi
    assert found.argv == understand().argv


@pytest.mark.parametrize("way", ["flag", "variable", "file"])
def test_root_pypi_by_two_ways(
    understand: Understand, configuration: Callable[..., str], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Equal: as either of them. Different: an error that names both."""
    argv = {"flag": ["--no-root-pypi"], "file": ["-c", configuration("no-root-pypi: true")]}.get(way, [])
    if way == "variable":
        monkeypatch.setenv("DEVPISERVER_NO_ROOT_PYPI", "1")
    assert understand(*argv, root_pypi=False).no_root_pypi is True
    with pytest.raises(FlagsRefused) as caught:
        understand(*argv, root_pypi=True)
    assert caught.value.reason == "--no-root-pypi is true in devpi-server's flags, and DEVPI_ROOT_PYPI is true"
    assert caught.value.hint == "keep one of them"


def test_root_pypi_wanted_by_devpis_own_variable(understand: Understand, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEVPISERVER_NO_ROOT_PYPI=false contradicts DEVPI_ROOT_PYPI=false."""
    monkeypatch.setenv("DEVPISERVER_NO_ROOT_PYPI", "false")
    assert understand(root_pypi=True).no_root_pypi is False
    with pytest.raises(FlagsRefused, match="--no-root-pypi is false in devpi-server's flags, and DEVPI_ROOT_PYPI is f"):
        understand(root_pypi=False)


# --- what else is reported to the sidecar -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "field", "value"),
    [
        (["--no-root-pypi"], "no_root_pypi", True),
        (["--no-root"], "no_root_pypi", True),
        (["--secretfile", "/s"], "secretfile", "/s"),
        (["--storage", "sqlite:fsbackend=hash_hl"], "storage", "sqlite"),
        (["--primary-url", "http://p"], "replica", True),
        (["--primary-url", "http://p"], "primary_url", "http://p"),
        (["--master-url", "http://p"], "primary_url", "http://p"),
        (["--master-url", "http://p"], "replica", True),
        (["--role", "replica", "--primary-url", "http://p"], "replica", True),
        (["--role", "primary"], "replica", False),
        (["--argon2-time-cost", "2"], "own_derivation", True),
        (["--argon2-memory-cost=524288"], "own_derivation", True),
        (["--argon2-para", "8"], "own_derivation", True),
        (["--version"], "version_asked", True),
        (["--serverdir", "relative"], "serverdir", Path.cwd() / "relative"),
        (
            ["--storage", "sqlite:fsbackend=hash_hl", "--keyfs-cache-size", "5"],
            "tool_flags",
            ("--storage", "sqlite:fsbackend=hash_hl", "--keyfs-cache-size", "5"),
        ),
    ],
)
def test_what_the_sidecar_learns(understand: Understand, argv: list[str], field: str, value: object) -> None:
    """The flags in devpi-server's command line stay unchanged."""
    found = understand(*argv)
    assert getattr(found, field) == value
    assert added(found, *argv)[-2:] == ALL_DEFAULTS[-2:]


def test_tools_get_the_configuration_file(understand: Understand, configuration: Callable[..., str]) -> None:
    """It may contain options for them."""
    name = configuration("threads: 8")
    assert understand("-c", name).tool_flags[-2:] == ("--configfile", name)


def test_the_home_directory_is_expanded(understand: Understand, tmp_path: Path) -> None:
    """As devpi does it."""
    assert understand("--serverdir", "~/state").serverdir == tmp_path / "home" / "state"


def test_the_cheap_derivation_is_understood(understand: Understand) -> None:
    """devpi's parser has all of its hidden flags."""
    assert understand(*CHEAP_DERIVATION).own_derivation


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "options", "reason"),
    [
        (["--no-such-flag"], {}, "unrecognized arguments: --no-such-flag"),
        (["--port"], {}, "argument --port: expected one argument"),
        (["--port", "http"], {}, "argument --port: invalid int value: 'http'"),
        (["--port", "70000"], {}, "can't listen on port 70000"),
        (["--port", "-1"], {}, "port"),
        (["--p", "1"], {}, "ambiguous option: --p could match"),
        (["--role", "boss"], {}, "invalid choice: 'boss'"),
        (["stray"], {}, "unrecognized arguments: stray"),
        (["--", "--port", "1"], {}, "unrecognized arguments: -- --port 1"),
        (["--listen", "nonsense"], {}, "can't listen: Invalid host/port specified"),
        (["--listen", ""], {}, "no address to listen on"),
        (["--host", "not-an-address"], {}, "can't listen: Invalid host/port specified"),
        (["--unix-socket", "/s", "--listen", "127.0.0.1:1"], {}, "unix_socket may not be set if listen is set"),
        (["--unix-socket", "/s", "--host", "127.0.0.1"], {}, "unix_socket may not be set if host or port is set"),
        (["--unix-socket", "/s", "--port", "1"], {}, "unix_socket may not be set if host or port is set"),
        (["--unix-socket", "/s", "--unix-socket-perms", "rw"], {}, "invalid literal"),
        (["--trusted-proxy-count", "1"], {}, "trusted_proxy_count has no meaning"),
        (["--serverdir", "~nobody-of-this-name/x"], {}, "home directory"),
        (["--configfile", "/absent.yml"], {}, "No such file or directory: '/absent.yml'"),
        (["--configfile", "/"], {}, "Is a directory"),
        (["--storage", "sqlite:nonsense"], {}, "can't use its flags"),
        (
            ["--serverdir", "/a"],
            {"serverdir": "/b"},
            "the serverdir is '/a' in devpi-server's flags and '/b' in DEVPI_SERVERDIR",
        ),
        (["--port", "1"], {"port": 2}, "devpi-server's port is '1' in devpi-server's flags and '2' in DEVPI_PORT"),
        (["--listen", "127.0.0.1:1"], {"port": 1}, "DEVPI_PORT can't be combined with --listen or --unix-socket"),
        (["--unix-socket", "/s"], {"port": 1}, "DEVPI_PORT can't be combined with --listen or --unix-socket"),
    ],
)
def test_refused(understand: Understand, argv: list[str], options: dict[str, Any], reason: str) -> None:
    """With a reason and a hint."""
    with pytest.raises(FlagsRefused) as caught:
        understand(*argv, **options)
    assert reason in caught.value.reason
    assert caught.value.hint


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--listen", "127.0.0.1:1", "--port", "2"], "not both together"),
        (["--storage", "no-such-storage"], "'no-such-storage' can't be found"),
    ],
)
def test_refused_by_devpi(understand: Understand, argv: list[str], reason: str) -> None:
    """With devpi's own message."""
    with pytest.raises(Fatal, match=reason):
        understand(*argv)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"devpi-server: [", "can't use its flags or its configuration file"),
        (b"devpi-server:\n  a: 1\n a: 2", "can't use its flags or its configuration file"),
        (b"devpi-server:\n  debug: maybe", "invalid truth value 'maybe'"),
        (b"devpi-server:\n  port: http", "invalid int value: 'http'"),
        (b"devpi-server:\n  port:\n    a: 1", "can't use its flags or its configuration file"),
        (b"devpi-server:\n  port:\n  - 1\n  - 2", "can't use its flags or its configuration file"),
        (b"\xff\xfe", "can't decode byte"),
        (b"devpi-server:\n  storage:\n    name: sqlite", "NAME:KEY=VALUE"),
    ],
)
def test_a_configuration_file_that_is_wrong(
    understand: Understand, configuration: Callable[..., str], content: bytes, reason: str
) -> None:
    """Whatever devpi's readers raise: refused in one line with a reason."""
    with pytest.raises((FlagsRefused, Fatal)) as caught:
        understand("--configfile", configuration(raw=content))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_configuration_file_that_devpi_ends_with(understand: Understand, configuration: Callable[..., str]) -> None:
    """A list instead of a mapping: it is reported, and the exit code is not 0."""
    with pytest.raises(SystemExit) as caught:
        understand("--configfile", configuration(raw=b"- a\n- b\n"))
    assert caught.value.code == 4


def test_devpis_environment_is_held_against_the_settings(
    understand: Understand, monkeypatch: pytest.MonkeyPatch, configuration: Callable[..., str]
) -> None:
    """Contradictions are found wherever devpi's value comes from."""
    monkeypatch.setenv("DEVPISERVER_SERVERDIR", "/a")
    with pytest.raises(FlagsRefused, match="'/a' in devpi-server's flags and '/b' in DEVPI_SERVERDIR"):
        understand(serverdir="/b")
    with pytest.raises(FlagsRefused, match="'8000' in devpi-server's flags and '1' in DEVPI_PORT"):
        understand("-c", configuration("port: 8000"), port=1)


@pytest.mark.parametrize("given_twice", ["/srv", "/srv/"])
def test_the_same_said_twice_is_no_contradiction(understand: Understand, given_twice: str) -> None:
    """Port and serverdir, by flag and by setting; a trailing slash makes no difference."""
    found = understand("--serverdir", given_twice, "--port", "8000", serverdir="/srv", port=8000)
    assert found.serverdir == Path("/srv")
    assert found.listen.addresses == ("http://0.0.0.0:8000",)
    assert added(found, "--serverdir", given_twice, "--port", "8000") == ALL_DEFAULTS[2:]


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["--hel"], ["--port", "1", "--help"]])
def test_help(understand: Understand, capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    """devpi prints it, including our own flag, and there is nothing more to do."""
    with pytest.raises(SystemExit) as caught:
        understand(*argv)
    assert caught.value.code in (0, None)
    assert "--no-root-pypi" in capsys.readouterr().out


# --- no disk is touched ---------------------------------------------------------------------------------------------

_touched: list[tuple[str, object]] | None = None


_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.chown", "os.truncate", "sqlite3.connect"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _touched is not None and (event in _CHANGES or (event == "open" and arguments[2] & _WRITING)):
        _touched.append((event, arguments[0]))


@pytest.fixture
def touched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, object]]]:
    """Return what Python's audit hook reports about writing to any disk."""
    global _touched  # noqa: PLW0603 - an audit hook stays for the process's life
    if not hasattr(sys, "_sidecar_audit"):
        sys.addaudithook(_hook)
        sys._sidecar_audit = True  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    _touched = []
    yield _touched
    _touched = None


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--port", "1", "--no-root-pypi"],
        ["--unix-socket", "SOCKET"],
        ["--no-such-flag"],
        ["--primary-url", "http://p"],
    ],
)
def test_no_disk_is_touched(
    understand: Understand, tmp_path: Path, touched: list[tuple[str, object]], argv: list[str]
) -> None:
    """Nothing is opened for writing, created, renamed or removed; the serverdir is not created."""
    (tmp_path / "probe").write_bytes(b"the hook sees this")
    assert [Path(str(name)).name for _, name in touched] == ["probe"]
    touched.clear()
    socket_path = str(tmp_path / "run" / "socket")
    try:
        understand(*(socket_path if each == "SOCKET" else each for each in argv), serverdir=str(tmp_path / "serverdir"))
    except FlagsRefused:
        assert argv == ["--no-such-flag"]
    assert touched == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["probe"]


# --- any command line -----------------------------------------------------------------------------------------------

OPTIONS = """
--port --host --listen --unix-socket --unix-socket-perms --serverdir --storage --threads --role --primary-url
--master-url --secretfile --restrict-modify --configfile -c --no-root-pypi --offline-mode --trusted-proxy
--trusted-proxy-count --trusted-proxy-headers --max-request-body-size --connection-limit --argon2-time-cost
--debug --version --help -h --por --l --passwd --keyfs-cache-size --no-replica-streaming -- -
"""
REAL = st.sampled_from(OPTIONS.split())
VALUES = st.sampled_from(
    [
        "",
        "0",
        "-1",
        "65535",
        "99999999999999999999",
        "127.0.0.1:1",
        "*:0",
        "::1",
        "/nonexistent",
        "~",
        "~x/y",
        "sqlite:",
        "a=b",
    ]
)
# What argv can hold: no NUL, and no surrogates but those that stand for bytes.
JUNK = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(argv=st.lists(REAL | VALUES | JUNK | st.builds("{}={}".format, REAL, VALUES | JUNK), max_size=6))
def test_any_command_line_is_understood_or_refused(understand: Understand, argv: list[str]) -> None:
    """By `FlagsRefused`, `Fatal`, or help or version was asked for; otherwise the flags are unchanged."""
    found, refusal = None, ""
    try:
        found = understand(*argv)
    except (FlagsRefused, Fatal) as error:
        refusal = str(error)
    except SystemExit as error:
        refusal = "help" if error.code in (0, None) else ""
    if found is None:
        assert refusal
    else:
        assert found.listen.addresses
        assert found.serverdir.is_absolute()
        assert set(added(found, *argv)[::2]) <= {*ALL_DEFAULTS, "--port"}


def test_the_outside_url(understand: Understand, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the flag or its variable; otherwise there is none."""
    assert understand().outside_url is None
    assert understand("--outside-url", "https://devpi.example.com").outside_url == "https://devpi.example.com"
    monkeypatch.setenv("DEVPISERVER_OUTSIDE_URL", "https://other.example.com")
    assert understand().outside_url == "https://other.example.com"
