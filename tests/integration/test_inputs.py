"""Inputs of an operator that nothing reads are reported, without their value; what devpi reads causes no warning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.container import Container, free_port, wait_for

pytestmark = pytest.mark.slow

SECRET = "hunter2-of-the-test"

FLAGS = ("--host", "127.0.0.1", "--port", "0", "--no-root-pypi", "--offline-mode")

SERVICE_LINKS = {
    "DEVPI_SERVICE_HOST": "10.0.0.1",
    "DEVPI_SERVICE_PORT": "3141",
    "DEVPI_SERVICE_PORT_HTTP": "3141",
    "DEVPI_PORT_3141_TCP": "tcp://10.0.0.1:3141",
    "DEVPI_PORT_3141_TCP_PROTO": "tcp",
    "DEVPI_PORT_3141_TCP_PORT": "3141",
    "DEVPI_PORT_3141_TCP_ADDR": "10.0.0.1",
    "DEVPI_WEB_PORT": "tcp://10.0.0.2:80",
    "DEVPISERVER_SERVICE_HOST": "10.0.0.3",
    "DEVPISERVER_PORT": "tcp://10.0.0.3:3141",
    "SIDECAR_METRICS_SERVICE_PORT_METRICS": "3142",
}


def noticed(c: Container, about: str) -> dict[str, str]:
    """Return the notices about one kind of input: reason → hint."""
    return {n["reason"]: n["hint"] for n in c.status()["notices"] if n["about"] == about}


def test_unknown_variables(container: Callable[..., Container]) -> None:
    """Each is named, with a similar known one, in the log, on `/status` and by the command; no value is."""
    c = container(
        env={
            "DEVPI_PASWORD": SECRET,
            "SIDECAR_LOGLEVEL": SECRET,
            "DEVPISERVER_OUTSIDE_ULR": SECRET,
            "DEVPI_SERVER_DIR": SECRET,
            "DEVPISERVER_CONFIGFILE": SECRET,
            "DEVPI_THEME_COLOUR": SECRET,
            "DEVPI_INDEX": "root/dev",
            "DEVPISERVER_SKIP_IMPORT_TYPE": "x",
            "DEVPISERVER_THREADS": "7",
            **SERVICE_LINKS,
        }
    )
    c.start().wait_ready()
    assert {
        "unknown variable DEVPI_PASWORD": "did you mean DEVPI_PASSWORD?",
        "unknown variable SIDECAR_LOGLEVEL": "did you mean SIDECAR_LOG_LEVEL?",
        "unknown variable DEVPISERVER_OUTSIDE_ULR": "did you mean DEVPISERVER_OUTSIDE_URL?",
        "unknown variable DEVPI_SERVER_DIR": "did you mean DEVPI_SERVERDIR?",
        "unknown variable DEVPI_THEME_COLOUR": "remove it, or fix its name",
        "devpi-server ignores the variable DEVPISERVER_CONFIGFILE": "pass --configfile to devpi-server",
    } == noticed(c, "variable")
    printed = c.sidecar("status")
    assert 0 == printed.returncode
    for said in (c.log, printed.stdout, c.get("/", accept="text/html").body.decode()):
        assert "DEVPI_PASWORD" in said
        assert "did you mean DEVPI_PASSWORD?" in said
        assert "SERVICE_HOST" not in said
        assert SECRET not in said
    assert 1 == c.log.count("DEVPI_PASWORD")


def test_a_misspelt_name_that_costs_the_start(container: Callable[..., Container]) -> None:
    """It is reported before what is missing without it."""
    c = container(flags=(*FLAGS, "--role", "replica"), env={"DEVPISERVER_PRIMARY_ULR": f"http://{SECRET}"}).start()
    assert 2 == c.wait_end()
    assert "did you mean DEVPISERVER_PRIMARY_URL?" in c.log.partition(" ERROR ")[0]
    assert SECRET not in c.log


def test_many_unknown_variables(container: Callable[..., Container]) -> None:
    """Many of them, and a name that would forge a log line, harm neither the start nor the log's lines."""
    crowd = {f"DEVPI_X{number}": SECRET for number in range(300)}
    c = container(env={**crowd, "DEVPI_\n2026 FATAL all is lost": SECRET})
    c.start().wait_ready()
    assert 21 == len(noticed(c, "variable"))
    assert any(" more unknown variables" in reason for reason in noticed(c, "variable"))
    assert "\n2026 FATAL" not in c.log


def with_file(container: Callable[..., Container], content: str, **env: str) -> Container:
    """A container that reads this as devpi's configuration file."""
    c = container(env=env)
    file = c.home / "devpi.yml"
    file.write_text(content)
    file.chmod(0o600)
    c.flags = (*FLAGS, "--configfile", str(file))
    return c


RIGHT = """\
devpi-server:
  restrict-modify: root,:admins
  threads: 7
  argon2-memory-cost: 1024
  no-events: true
  skip-import-type: x
  include-mirrored-files: true
"""


def test_right_options_in_the_configuration_file(container: Callable[..., Container]) -> None:
    """The options of all of devpi's programs are allowed: neither a start nor a tool warns of them."""
    c = with_file(container, RIGHT)
    c.start().wait_ready()
    assert [] == c.status()["notices"]
    assert "nknown" not in c.log
    assert 0 == c.stop()
    told = c.run("devpi-fsck", "--configfile", str(c.home / "devpi.yml"))
    assert 0 == told.returncode, told.stdout
    assert "nknown" not in told.stdout


def test_wrong_options_in_the_configuration_file(container: Callable[..., Container]) -> None:
    """Each is reported once, not once by each parser, and without its value."""
    c = with_file(container, f"devpi-server:\n  restrict-modfy: {SECRET}\n  {SECRET[:7]}: 1\n  passwd: root\n")
    c.start().wait_ready()
    file = "the configuration file <path>"
    assert {
        f"unknown option restrict-modfy in {file}": "did you mean restrict-modify?",
        f"unknown option {SECRET[:7]} in {file}": "remove it, or fix its name",
        f"devpi-server ignores passwd in {file}": "stop the server, and run devpi-passwd",
    } == noticed(c, "configuration")
    assert 1 == c.log.count("restrict-modfy")
    assert SECRET not in c.log


@pytest.mark.parametrize("content", ["restrict-modify: root\nthreads: 7\n", "devpi_server:\n  threads: 7\n"])
def test_a_configuration_file_without_the_section(container: Callable[..., Container], content: str) -> None:
    """devpi silently ignores it: it is reported."""
    c = with_file(container, content)
    c.start().wait_ready()
    reason = "the configuration file <path> has no section devpi-server, so all of it is ignored"
    assert {reason: "indent the options below a line `devpi-server:`"} == noticed(c, "configuration")


def test_the_password_of_the_configuration_file(container: Callable[..., Container]) -> None:
    """It is root's, as for devpi-init: provided, not claimable, and in no line of the log."""
    c = with_file(container, f"devpi-server:\n  root-passwd: {SECRET}\n")
    c.start().wait_ready()
    assert "provided" == c.status()["root_password"]["state"]
    assert 200 == c.login("root", SECRET)
    assert 404 == c.post("/bootstrap/root-password").status
    assert SECRET not in c.log + str(c.status()) + c.sidecar("status").stdout
    assert [] == c.status()["notices"]


def test_a_variable_overrides_the_password_of_the_configuration_file(container: Callable[..., Container]) -> None:
    """As in all of devpi's programs; that the other one has no effect is reported."""
    c = with_file(container, f"devpi-server:\n  root-passwd: {SECRET}\n", DEVPI_PASSWORD="another-one")
    c.start().wait_ready()
    assert 200 == c.login("root", "another-one")
    assert 401 == c.login("root", SECRET)
    (reason,) = noticed(c, "configuration")
    assert "because DEVPI_PASSWORD differs" in reason
    assert SECRET not in c.log


def test_a_password_for_a_replica(container: Callable[..., Container]) -> None:
    """A replica has its primary's users, root's password too."""
    flags = (*FLAGS[:4], "--primary-url", f"http://127.0.0.1:{free_port()}")
    c = container(flags=flags, env={"DEVPI_PASSWORD": SECRET}).start().wait_listening()
    (hint,) = wait_for(lambda: noticed(c, "root-password"), "the notice").values()
    assert "remove it from this replica" in hint
    assert SECRET not in c.log


def test_a_hash_in_the_configuration_file(container: Callable[..., Container]) -> None:
    """It has no effect here, which is reported with a way that works."""
    c = with_file(container, f"devpi-server:\n  root-passwd-hash: {SECRET}\n")
    c.start().wait_ready()
    (hint,) = noticed(c, "configuration").values()
    assert "DEVPI_PASSWORD_FILE" in hint
    assert "claimable" == c.status()["root_password"]["state"]
    assert SECRET not in c.log


@pytest.mark.parametrize(
    "flags", [("--root-passwd", SECRET), (f"--root-passwd={SECRET}",), ("--root-passwd-h", SECRET)]
)
def test_a_password_among_the_flags(container: Callable[..., Container], flags: tuple[str, ...]) -> None:
    """It is refused, and not repeated in the log."""
    c = container(flags=(*FLAGS, *flags)).start()
    assert 2 == c.wait_end()
    assert "use DEVPI_PASSWORD_FILE" in c.log
    assert SECRET not in c.log


@pytest.mark.parametrize(
    "line", [f"root-passwd: [{SECRET}]", f"root-passwd: *{SECRET}", f"x: '\n  root-passwd: {SECRET}"]
)
def test_a_configuration_file_that_is_no_yaml(container: Callable[..., Container], line: str) -> None:
    """The error has the position, and does not quote the file: a password may be in it."""
    c = with_file(container, f"devpi-server:\n  {line}\n").start()
    assert 2 == c.wait_end()
    assert " in line " in c.log
    assert SECRET not in c.log


@pytest.mark.parametrize("password", ["'a\tb'", "x" * 1025, "\n    a: b"])
def test_a_wrong_password_in_the_configuration_file(
    container: Callable[..., Container], password: str, tmp_path: Path
) -> None:
    """It is refused before anything is initialised, without being repeated."""
    c: Any = with_file(container, f"devpi-server:\n  root-passwd: {password}\n").start()
    assert 2 == c.wait_end()
    assert "root-passwd in devpi-server's configuration file" in c.log
    assert password[:100] not in c.log
    assert not (c.serverdir / ".nodeinfo").exists()
