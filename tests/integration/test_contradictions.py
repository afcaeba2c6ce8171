"""Contradictions of flags, settings and the state on the volume: code 2, nothing touched, and a hint that works.

Each hint is followed, in each way that it names, and the container starts.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import exported
from tests.support.container import Container, free_port, wait_for

pytestmark = pytest.mark.slow

QUIET = ("--host", "127.0.0.1", "--no-root-pypi", "--offline-mode")
FREE = ("--port", "0")
NOBODY = "http://127.0.0.1:9"
"""An unreachable primary: its replica listens, and is not ready."""
ELSEWHERE = """
from devpi_server import keyfs_sqlite_fs
from devpi_server.config import hookimpl

@hookimpl
def devpiserver_storage_backend(settings):
    return dict(keyfs_sqlite_fs.devpiserver_storage_backend(settings), name="elsewhere")
"""


@dataclass(frozen=True)
class Try:
    """One way to start."""

    flags: tuple[str, ...] = FREE
    env: dict[str, str] = field(default_factory=dict)
    before: Callable[[Container], object] | None = None
    """What the operator does to the volume or its mounts."""
    replica: bool = False
    """It becomes a replica without a primary, which serves and is never ready; otherwise it becomes ready."""


@dataclass(frozen=True)
class Case:
    """One contradiction."""

    wrong: Try
    said: tuple[str, ...]
    hint: str
    followed: tuple[Try, ...]
    holds: str = ""
    """The serverdir's content: none, or the state of a `standalone` or a `replica` without its primary's URL."""


def add_export(c: Container) -> None:
    """An export in DEVPI_INIT_DIR."""
    exported.write(c.init_dir / "export", projects=1)


def remove_exports(c: Container) -> None:
    """The files are not mounted any more."""
    shutil.rmtree(c.init_dir)


def initialise_by_hand(c: Container) -> None:
    """As the hint says."""
    assert (
        c.run("devpi-init", "--root-passwd", "given by hand", "--no-root-pypi", "--storage", "elsewhere").returncode
        == 0
    )


TO_REPLICA = ("--primary-url", NOBODY)
OWN = {"DEVPI_SERVERDIR": "{home}/another"}
CASES = {
    "a replica of nobody": Case(
        Try((*FREE, "--role", "replica")),
        ("a replica needs the URL of its primary",),
        "add --primary-url URL, or remove --role replica",
        (Try((*FREE, "--role", "replica", *TO_REPLICA), replica=True), Try()),
    ),
    "a replica that has lost its URL": Case(
        Try(),
        ("a replica needs the URL of its primary",),
        "add --primary-url URL",
        (Try((*FREE, *TO_REPLICA), replica=True),),
        holds="replica",
    ),
    "a primary's state": Case(
        Try((*FREE, *TO_REPLICA)),
        ("--primary-url asks for a replica", "the state of a standalone devpi-server"),
        "remove --primary-url to serve that state, or give the replica a serverdir of its own (DEVPI_SERVERDIR)",
        (Try(), Try((*FREE, *TO_REPLICA), OWN, replica=True)),
        holds="standalone",
    ),
    "a primary's state, by variable": Case(
        Try(env={"DEVPISERVER_PRIMARY_URL": NOBODY}),
        ("--primary-url asks for a replica",),
        "remove --primary-url to serve that state",
        (Try(),),
        holds="standalone",
    ),
    "a primary's state, and the role": Case(
        Try((*FREE, "--role", "replica", *TO_REPLICA)),
        ("--primary-url asks for a replica",),
        "remove --primary-url and --role replica to serve that state",
        (Try(),),
        holds="standalone",
    ),
    "a primary's state, and the role alone": Case(
        Try((*FREE, "--role", "replica")),
        ("--role replica asks for a replica",),
        "remove --role replica to serve that state",
        (Try(),),
        holds="standalone",
    ),
    "a primary of a primary": Case(
        Try((*FREE, "--role", "primary", *TO_REPLICA)),
        ("--role primary and --primary-url contradict each other",),
        "remove --primary-url, or remove --role primary to run a replica",
        (Try((*FREE, "--role", "primary")), Try((*FREE, *TO_REPLICA), replica=True)),
    ),
    "two primaries": Case(
        Try((*FREE, *TO_REPLICA, "--master-url", NOBODY)),
        ("--primary-url and --master-url are both set",),
        "keep --primary-url",
        (Try((*FREE, *TO_REPLICA), replica=True),),
    ),
    "no URL": Case(
        Try((*FREE, "--primary-url", "127.0.0.1:9")),
        ("--primary-url is not a URL",),
        "http://devpi:3141",
        (Try((*FREE, *TO_REPLICA), replica=True),),
    ),
    "a password in the URL": Case(
        Try((*FREE, "--primary-url", "http://me:not-for-the-log@127.0.0.1:9")),
        ("--primary-url contains a user or a password",),
        "remove both from the URL",
        (Try((*FREE, *TO_REPLICA), replica=True),),
    ),
    "a replica that should import": Case(
        Try((*FREE, *TO_REPLICA), before=add_export),
        ("a replica gets its state from its primary", "DEVPI_INIT_DIR"),
        "do not mount exports into a replica, or remove --primary-url and --role replica to import them",
        (Try(), Try((*FREE, *TO_REPLICA), OWN, before=remove_exports, replica=True)),
    ),
    "one port for two": Case(
        Try(("--port", "{port}"), {"SIDECAR_PORT": "{port}"}),
        ("can't both listen on port {port}", "http://127.0.0.1:{port}", "SIDECAR_PORT"),
        "set SIDECAR_PORT to another port",
        (Try(("--port", "{port}"), {"SIDECAR_PORT": "{other}"}),),
    ),
    "one port for two, by settings": Case(
        Try((), {"DEVPI_PORT": "{port}", "SIDECAR_PORT": "{port}", "SIDECAR_HOST": "0.0.0.0"}),
        ("can't both listen on port {port}", "http://0.0.0.0:{port}"),
        "set SIDECAR_PORT to another port",
        (Try((), {"DEVPI_PORT": "{port}", "SIDECAR_PORT": "{other}", "SIDECAR_HOST": "0.0.0.0"}),),
    ),
    "a storage elsewhere": Case(
        Try((*FREE, "--storage", "elsewhere")),
        ("can't create a first state in the storage 'elsewhere'",),
        "run devpi-init with --root-passwd, or devpi-import",
        (Try((*FREE, "--storage", "elsewhere"), before=initialise_by_hand),),
    ),
    "two serverdirs": Case(
        Try((*FREE, "--serverdir", "{home}/another")),
        ("{home}/another", "DEVPI_SERVERDIR"),
        "keep one of them",
        (Try(), Try((*FREE, "--serverdir", "{home}/another"), {"DEVPI_SERVERDIR": "-"})),
    ),
    "two ports": Case(
        Try(("--port", "{port}"), {"DEVPI_PORT": "{other}"}),
        ("'{port}'", "'{other}'", "DEVPI_PORT"),
        "keep one of them",
        (Try(("--port", "{port}")), Try((), {"DEVPI_PORT": "{other}"})),
    ),
}


@pytest.mark.parametrize("case", list(CASES.values()), ids=list(CASES))
def test_found_first_and_its_hint_works(
    container: Callable[..., Container], made_by_devpi: Callable[..., Path], case: Case
) -> None:
    """Code 2 with both sides and the hint in the log, the volume unchanged; following the hint, the server starts."""
    c = container()
    if case.holds:
        shutil.copytree(made_by_devpi("root's password"), c.serverdir)
    if case.holds == "replica":
        info = c.serverdir / ".nodeinfo"
        info.write_text(json.dumps(json.loads(info.read_text()) | {"role": "replica"}))
    install(c)
    words = {"home": str(c.home), "port": str(free_port()), "other": str(free_port())}
    begin(c, case.wrong, words)
    before = exported.digests(c.serverdir) if case.holds else None

    assert 2 == c.wait_end(), c.log
    assert [] == [part for part in (*case.said, case.hint) if part.format_map(words) not in c.log], c.log
    assert "Traceback" not in c.log
    assert "not-for-the-log" not in c.log
    assert before == (exported.digests(c.serverdir) if c.serverdir.exists() else None)
    assert not (c.home / "another").exists()
    assert exported.names(c.runtime) <= {"lock"}

    for number, followed in enumerate(case.followed):
        if number and not case.holds and c.serverdir.exists():
            shutil.rmtree(c.serverdir)
        begin(c, followed, words)
        if followed.replica:
            wait_for(lambda: is_replica(c), "the replica")
            assert 503 == c.get("/readyz").status
        else:
            c.wait_ready()
        assert 0 == c.stop(), c.log


def begin(c: Container, wanted: Try, words: dict[str, str]) -> None:
    """Start it that way."""
    c.flags = tuple(flag.format_map(words) for flag in (*QUIET, *wanted.flags))
    plugins = {"PYTHONPATH": str(c.home / "plugins")}
    c.env = plugins | {name: value.format_map(words) for name, value in wanted.env.items()}
    if wanted.before is not None:
        wanted.before(c)
    c.start()


def is_replica(c: Container) -> bool:
    """Whether devpi-server runs as a replica."""
    devpi = c.wait_listening().status()["devpi"]
    return devpi is not None and devpi.get("role") == "replica"


def install(c: Container) -> None:
    """A plugin of devpi-server with a storage that looks as if it were outside the serverdir."""
    info = c.home / "plugins/elsewhere-1.0.dist-info"
    info.mkdir(parents=True)
    (info.parent / "elsewhere.py").write_text(ELSEWHERE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[devpi_server]\nelsewhere = elsewhere\n")


def test_a_replica_that_is_started_again_without_flags(
    container: Callable[..., Container], made_by_devpi: Callable[..., Path]
) -> None:
    """Its state has its role and its primary: no contradiction."""
    c = container()
    shutil.copytree(made_by_devpi("root's password"), c.serverdir)
    info = c.serverdir / ".nodeinfo"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"role": "replica", "masterurl": NOBODY}))
    c.start()
    wait_for(lambda: is_replica(c), "the replica")
    assert 0 == c.stop()
