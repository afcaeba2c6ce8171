"""devpi-server's flags, in every way that devpi supports; refused ones; devpi's tools as the container's command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.integration.conftest import OTHER_USER
from tests.support import exported
from tests.support.container import (
    Container,
    call_devpi,
    free_port,
    login_token,
    wait_for,
)

QUIET = ("--no-root-pypi", "--offline-mode")
LOCAL = ("--host", "127.0.0.1", *QUIET)


def names(folder: Path) -> set[str]:
    """Return the names in a folder; none if it does not exist."""
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def assert_untouched(c: Container) -> None:
    """Assert that no serverdir was made, and that the runtime directory is empty."""
    assert not c.serverdir.exists()
    assert names(c.runtime) <= {"lock"}


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory, made_by_devpi: Callable[..., Path]) -> Path:
    """A home with a serverdir, for tests that start on it one after the other."""
    home = tmp_path_factory.mktemp("flags")
    shutil.copytree(made_by_devpi("root's password"), home / "c/serverdir")
    return home


# --- where devpi-server listens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "way", ["--port N", "--port=N", "abbreviated", "DEVPISERVER_PORT", "DEVPI_PORT", "--configfile", "named command"]
)
def test_the_port(initialised: Path, container: Callable[..., Container], way: str) -> None:
    """However devpi-server's port is set, it listens there, and the sidecar uses it."""
    port = str(free_port())
    c = container(str(initialised / "c"), flags=LOCAL)
    match way:
        case "--port N":
            c.flags += ("--port", port)
        case "--port=N":
            c.flags += (f"--port={port}",)
        case "abbreviated":
            c.flags += ("--po", port)
        case "named command":
            c.flags = ("devpi-server", "--port", port, *LOCAL)
        case "--configfile":
            (c.home / "devpi.yml").write_text(f"devpi-server:\n  port: {port}\n  offline-mode: true\n")
            c.flags += ("--configfile", str(c.home / "devpi.yml"))
        case variable:
            c.env[variable] = port
    c.start().wait_ready()

    assert f"http://127.0.0.1:{port}" == c.devpi
    assert 200 == call_devpi(f"{c.devpi}/+api").status
    assert 0 == c.stop()


def test_service_links_are_ignored(initialised: Path, container: Callable[..., Container]) -> None:
    """The tcp:// values that Kubernetes injects for Services with our names are logged, and not used."""
    link = "tcp://10.0.0.1:3141"
    env = {"DEVPI_PORT": link, "DEVPISERVER_PORT": link}  # SIDECAR_PORT's default may be in use where the tests run
    c = container(str(initialised / "c"), flags=(*LOCAL, "--port", "0"), env=env).start().wait_ready()

    for name in ("DEVPI_PORT", "DEVPISERVER_PORT"):
        assert f"{name} comes from a Kubernetes service link and is ignored" in c.log
    if os.geteuid() == 0:  # only root may read it
        environ = Path(f"/proc/{c.devpi_pid}/environ").read_bytes()
        assert b"HOME=" in environ
        assert b"tcp://" not in environ
    assert 0 == c.stop()


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "env", "said"),
    [
        (("--serverdir", "/elsewhere"), {}, ("'/elsewhere'", "DEVPI_SERVERDIR")),
        ((), {"DEVPISERVER_SERVERDIR": "/elsewhere"}, ("'/elsewhere'", "DEVPI_SERVERDIR")),
        (("--port", "8000"), {"DEVPI_PORT": "8001"}, ("'8000'", "'8001'", "DEVPI_PORT")),
        ((), {"DEVPISERVER_PORT": "8000", "DEVPI_PORT": "8001"}, ("'8000'", "'8001'", "DEVPI_PORT")),
        (("--listen", "127.0.0.1:8000"), {"DEVPI_PORT": "8001"}, ("--listen", "DEVPI_PORT")),
        (("--host", "127.0.0.1", "--listen", "127.0.0.1:8000"), {}, ("--listen", "--host")),
        (("--no-such-flag",), {}, ("--no-such-flag", "--help")),
        (("--port", "eighty"), {}, ("--port", "eighty")),
        (("--threads",), {}, ("--threads", "expected one argument")),
        (("--port", "70000"), {}, ("70000",)),
        (("--configfile", "/no/such/file.yml"), {}, ("/no/such/file.yml",)),
        (("--restrict-modify", "root"), {"DEVPISERVER_PORT": "eighty"}, ("eighty",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_contradictions_and_mistakes(
    container: Callable[..., Container], flags: tuple[str, ...], env: dict[str, str], said: tuple[str, ...]
) -> None:
    """Flags that contradict the settings, or that devpi doesn't have: code 2, both named, nothing on the disk."""
    c = container(flags=(*flags, *QUIET), env=env).start()

    assert 2 == c.wait_end(), c.log
    assert [] == [name for name in said if name not in c.log], c.log
    assert "Traceback" not in c.log
    assert_untouched(c)


def test_all_settings_at_once(container: Callable[..., Container]) -> None:
    """Mistakes in the environment are all reported at once, before anything is made."""
    env = {"DEVPI_PORT": "x", "SIDECAR_STOP_GRACE": "soon", "DEVPI_PASSWORD": "", "SIDECAR_ADMIN_TOKEN": "short"}
    c = container(env=env)
    done = c.run(*LOCAL)

    assert 2 == done.returncode
    assert 4 == done.stdout.count("error: ")
    assert [] == [name for name in env if name not in done.stdout]
    assert_untouched(c)


def test_texts(container: Callable[..., Container]) -> None:
    """--help and --version are printed, with code 0, and make nothing."""
    c = container()
    helped = c.run("--help")
    assert 0 == helped.returncode
    assert helped.stdout.startswith("usage: devpi-server [-h]")
    assert "--outside-url" in helped.stdout
    assert "--no-root-pypi" in helped.stdout
    assert_untouched(c)


@pytest.mark.parametrize(
    "flags",
    [["--version"], ["--vers"], ["--port", "8000", "--no-root-pypi", "--version"], ["devpi-server", "--version"]],
)
def test_the_version_is_all_that_is_printed(container: Callable[..., Container], flags: list[str]) -> None:
    """For scripts, also on a machine where it could not run: no port, runtime directory or serverdir is needed."""
    c = container(env={"SIDECAR_RUNTIME_DIR": "/proc/none", "DEVPI_SERVERDIR": "/proc/none", "DEVPI_PORT": "7"})
    done = c.run(*flags)
    assert (0, f"{version('devpi-server')}\n") == (done.returncode, done.stdout)
    assert_untouched(c)


@pytest.mark.parametrize("flags", [["--version", "--no-such-flag"], ["--h"], ["--outside-url", "--version"]])
def test_a_text_that_is_asked_for_wrongly(container: Callable[..., Container], flags: list[str]) -> None:
    """An unknown flag, an ambiguous one, one without its value: code 2 with the reason."""
    done = container().run(*flags)
    assert 2 == done.returncode
    assert "error: devpi-server rejected its flags: " in done.stdout


# --- who may make users -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "flags", "code"),
    [
        ({}, (), 403),
        ({"DEVPI_RESTRICT_MODIFY": ""}, (), 201),
        ({}, ("--restrict-modify", "root,alice"), 403),
        ({"DEVPISERVER_RESTRICT_MODIFY": "root"}, (), 403),
    ],
    ids=["default", "lifted", "flag", "devpi's variable"],
)
def test_restrict_modify(
    initialised: Path, container: Callable[..., Container], env: dict[str, str], flags: tuple[str, ...], code: int
) -> None:
    """Only root can create users, unless DEVPI_RESTRICT_MODIFY is empty."""
    c = container(str(initialised / "c"), env=env, flags=(*LOCAL, "--port", "0", *flags)).start().wait_ready()
    made = call_devpi(f"{c.devpi}/anybody{code}", "PUT", {"password": "123"})

    assert code == made.status
    token = login_token(c.devpi, "root's password")
    assert call_devpi(f"{c.devpi}/roots-{time.time_ns()}", "PUT", {"password": "123"}, token=token).status == 201
    assert 0 == c.stop()


# --- other commands ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_beside_a_running_server(initialised: Path, container: Callable[..., Container], tmp_path: Path) -> None:
    """Tools that need the serverdir exclusively get 75; devpi-export works; and the server continues."""
    c = container(str(initialised / "c"), flags=(*LOCAL, "--port", "0")).start().wait_ready()

    commands = (("devpi-fsck",), ("devpi-passwd", "root"), ("devpi-init",), ("devpi-import", str(tmp_path)))
    elsewhere = Container(c.home, env={"SIDECAR_RUNTIME_DIR": str(tmp_path / "runtime of a second server")})
    with ThreadPoolExecutor() as pool:  # each waits some seconds for the lock
        tools = list(pool.map(lambda command: c.run(*command), commands))
        same, other = pool.map(lambda server: server.run(*LOCAL, "--port", "0"), (c, elsewhere))
    by_path = c.run(str(Path(sys.executable).with_name("devpi-fsck")))
    for refused in (*tools, other, by_path):
        assert (75, True) == (refused.returncode, "in use by another server" in refused.stdout), refused
    assert (73, True) == (same.returncode, "another running sidecar uses the runtime directory" in same.stdout)

    nodeinfo = (c.serverdir / ".nodeinfo").stat()
    exporting = c.run("devpi-export", str(tmp_path / "export"))
    assert 0 == exporting.returncode, exporting.stdout
    now = (c.serverdir / ".nodeinfo").stat()
    assert (nodeinfo.st_ino, nodeinfo.st_mtime_ns) == (now.st_ino, now.st_mtime_ns), "a power cut could empty it"
    assert "root" in exported.load(tmp_path / "export")["users"]
    assert 200 == c.login("root", "root's password")
    assert 200 == c.get("/readyz").status
    assert 0 == c.stop()

    c.start().wait_ready()  # files that the tools touched are still usable
    assert 0 == c.stop()
    checked = c.run("devpi-fsck")
    assert 0 == checked.returncode, checked.stdout


def test_tools_as_another_user(other_user: Callable[..., Container]) -> None:
    """A tool run as root on another uid's serverdir would lock its server out: 73 with the hint, nothing touched."""
    c = other_user(flags=(*LOCAL, "--port", "0")).start().wait_ready()
    own = c.run("devpi-export", str(c.home / "export"))
    assert 0 == own.returncode, own.stdout
    assert 0 == c.stop()
    c.serverdir.chmod(0o2775)
    os.chown(c.serverdir, 0, OTHER_USER)  # as Kubernetes' fsGroup leaves a volume's root

    before = exported.digests(c.serverdir)
    for name, *arguments in (("devpi-export", str(c.home / "e2")), ("devpi-fsck",), ("devpi-passwd",), ("devpi-init",)):
        refused = c.run(name, *arguments, user=0)
        assert 73 == refused.returncode, refused
        assert f"belongs to uid {OTHER_USER}" in refused.stdout
        assert f"--user {OTHER_USER}" in refused.stdout
    assert before == exported.digests(c.serverdir)
    assert not (c.home / "e2").exists()

    again = c.run("devpi-export", str(c.home / "e3"))
    assert 0 == again.returncode, again.stdout
    assert 0 == c.start().wait_ready().stop()


def test_initialised_by_hand(container: Callable[..., Container]) -> None:
    """`devpi-init` as the command makes a state in an empty serverdir, which the next start adopts."""
    c = container(flags=(*LOCAL, "--port", "0"))
    made = c.run("devpi-init", "--no-root-pypi", "--root-passwd", "by hand")
    assert 0 == made.returncode, made.stdout
    assert ".nodeinfo" in names(c.serverdir)

    c.start().wait_ready()
    assert "it is used unchanged" in c.log
    assert [200, "unknown"] == [c.login("root", "by hand"), c.status()["root_password"]["state"]]
    assert 0 == c.stop()
    again = c.run("devpi-init")
    assert 1 == again.returncode
    assert not (c.serverdir / ".sidecar/tool.json").exists()


@pytest.mark.slow
def test_a_tool_after_an_installation_that_was_cut_short(
    container: Callable[..., Container], made_by_devpi: Callable[..., Path]
) -> None:
    """It finishes the installation first, and finds that state: devpi-init has nothing to make, fsck checks it."""
    c = container(flags=(*LOCAL, "--port", "0"))
    staging = c.serverdir / ".sidecar/staging"
    shutil.copytree(made_by_devpi("root's password"), staging / "state")
    entries = sorted(names(staging / "state"), key=lambda name: (name == ".nodeinfo", name))
    (c.serverdir / ".sidecar/promotion.json").write_text(json.dumps({"origin": "initialised", "entries": entries}))

    refused = c.run("devpi-init")
    assert (1, True) == (refused.returncode, "finished the installation" in refused.stdout), refused
    assert 0 == c.run("devpi-fsck").returncode
    c.start().wait_ready()
    assert 200 == c.login("root", "root's password")


@pytest.mark.slow
def test_a_killed_import_by_hand_is_not_served(container: Callable[..., Container], tmp_path: Path) -> None:
    """devpi would serve what a killed devpi-import leaves: the sidecar refuses it, 65, and changes nothing in it."""
    c = container(flags=(*LOCAL, "--port", "0"))
    export = exported.write(tmp_path / "export", projects=300)
    with (tmp_path / "log").open("wb") as log:
        importing = subprocess.Popen(
            [*c.arguments[:2], "devpi-import", "--no-root-pypi", str(export)],
            env=c.given_environ,
            stdout=log,
            stderr=log,
            cwd=c.home,
        )
    with importing:
        try:
            wait_for(lambda: (c.serverdir / "+files").exists() and importing.poll() is None, "the first file")
        finally:
            importing.kill()
    assert -signal.SIGKILL == importing.returncode
    before = exported.digests(c.serverdir)

    assert 65 == c.start().wait_end()
    assert "devpi-import that was run on it has not finished" in c.log
    after = exported.digests(c.serverdir)
    for name in [name for name in after if name.startswith(".sidecar")]:
        del after[name]
    assert {name: digest for name, digest in before.items() if not name.startswith(".sidecar")} == after
    assert 65 == c.run(*c.flags).returncode


def test_other_commands(container: Callable[..., Container]) -> None:
    """Any other command runs instead of the sidecar, with its own exit code, and without our secrets."""
    c = container(env={"DEVPI_PASSWORD": "not for others"})
    shell = c.run("sh", "-c", "env; exit 7")
    assert 7 == shell.returncode
    assert f"DEVPISERVER_SERVERDIR={c.serverdir}" in shell.stdout
    for name in ("DEVPI_PASSWORD", "SIDECAR_ADMIN_TOKEN"):
        assert name not in shell.stdout

    assert 127 == (unknown := c.run("no-such-command")).returncode
    assert "can't run 'no-such-command'" in unknown.stdout
    told = c.run("sidecar", "version")
    assert (0, True) == (told.returncode, told.stdout.startswith(f"devpi-sidecar {version('devpi-sidecar')}")), told
    assert not c.serverdir.exists()


@pytest.mark.slow
def test_passwd_on_a_stopped_server(container: Callable[..., Container], made_by_devpi: Callable[..., Path]) -> None:
    """devpi-passwd reads the password from its standard input, under the lock; the next start serves it."""
    c = container(flags=(*LOCAL, "--port", "0"))
    shutil.copytree(made_by_devpi("root's password"), c.serverdir)
    done = subprocess.run(
        [*c.arguments[:2], "devpi-passwd", "root"],
        env=c.given_environ,
        input="changed by hand\n" * 2,
        text=True,
        capture_output=True,
        timeout=180,
        check=False,
    )
    assert 0 == done.returncode, done

    c.start().wait_ready()
    assert [200, 401] == [c.login("root", "changed by hand"), c.login("root", "root's password")]
