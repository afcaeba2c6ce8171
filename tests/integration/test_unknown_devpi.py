"""Something that the worker depends on is missing: the container exits with 70 and names it, or is only slower."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support import exported
from tests.support.container import Container
from tests.support.exported import Described

Altered = Callable[..., dict[str, str]]


@pytest.fixture
def altered(tmp_path: Path) -> Altered:
    """Return a function that copies an installed package, changed like a later version, and returns its environment."""

    def alter(*changes: tuple[str, str, str]) -> dict[str, str]:
        folder = tmp_path / "altered"
        for file, old, new in changes:
            package = file.partition("/")[0]
            if not (folder / package).exists():
                spec = find_spec(package)
                assert spec is not None
                assert spec.submodule_search_locations is not None
                (source,) = spec.submodule_search_locations
                shutil.copytree(source, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
            content = (folder / file).read_text()
            assert old in content
            (folder / file).write_text(content.replace(old, new))
        return {"PYTHONPATH": str(folder)}

    return alter


def test_a_miss_at_the_start(container: Callable[..., Container], altered: Altered) -> None:
    """Before anything on disk is touched."""
    changed = altered(
        ("devpi_server/config.py", "def get_derived_key(self, salt", "def get_derived_key(self, purpose, salt"),
        ("devpi_server/log.py", "_configure_logging", "_set_up_logging"),
    )
    ended = container(env=changed).start()
    assert 70 == ended.wait_end()
    assert "Config.get_derived_key has the parameters (self, purpose, salt), not (self, salt) (hashing)" in ended.log
    assert "devpi_server.log:_configure_logging is missing (log)" in ended.log
    assert not ended.serverdir.exists()


def test_a_miss_at_the_initialisation(container: Callable[..., Container], altered: Altered) -> None:
    """The volume stays empty, and another version can start on it."""
    changed = altered(("devpi_server/init.py", "def init(pluginmanager=None, argv=None)", "def init(argv=None)"))
    ended = container(env=changed).start()
    assert 70 == ended.wait_end()
    assert "devpi_server.init:init has the parameters (argv), not (pluginmanager, argv) (init)" in ended.log
    assert not (ended.serverdir / ".nodeinfo").exists()
    ended.env = {}
    assert 0 == ended.start().wait_ready().stop()


def test_a_miss_when_it_is_to_serve(container: Callable[..., Container], altered: Altered) -> None:
    """All of it is listed; also what an assignment would have replaced silently."""
    changed = altered(
        ("devpi_server/keyfs_sqlite.py", "_get_sqlconn_uri_kw", "_connect"),
        ("devpi_server/config.py", "write_nodeinfo", "store_nodeinfo"),
        ("devpi_server/views.py", "def getjson(request)", "def getjson(request, required=())"),
        ("waitress/server.py", "handle_accept", "accept_one"),
        ("waitress/wasyncore.py", "handle_accept", "accept_one"),
    )
    sound = container()
    sound.start().wait_ready().stop()
    sound.env = changed
    assert 70 == sound.start().wait_end()
    for miss in (
        "BaseStorage._get_sqlconn_uri_kw is missing (durable_commits)",
        "Config.write_nodeinfo is missing (nodeinfo)",
        "views:getjson has the parameters (request, required), not (request) (json)",
        "BaseWSGIServer.handle_accept is missing (limit)",
    ):
        assert miss in sound.log


def test_a_miss_of_a_tool(container: Callable[..., Container], altered: Altered) -> None:
    """It touches nothing without the lock."""
    changed = altered(("devpi_server/main.py", "def get_config(self, argv,", "def get_config(self, arguments, argv,"))
    made = container(env=changed)
    done = made.run("devpi-init")
    assert 70 == done.returncode
    assert "error: this devpi-sidecar doesn't support devpi-server " in done.stdout
    assert "CommandRunner.get_config has the parameters (self, arguments, argv, parser)" in done.stdout
    assert not made.serverdir.exists()


def test_without_what_only_makes_it_faster(
    container: Callable[..., Container], altered: Altered, rich: Path, tmp_path: Path
) -> None:
    """It warns once of each, imports the same, serves and stops."""
    hash_password = "def hash_password(password):\n"
    rollback = "def rollback_transaction_in_thread(self"
    changed = altered(
        ("devpi_server/keyfs_sqlite.py", "_execute_conn_pragmas", "_set_pragmas"),
        ("devpi_server/keyfs.py", f"{rollback})", f"{rollback}, why=None)"),
        ("devpi_server/model.py", "hash_password", "hash_of"),
        ("devpi_server/auth.py", hash_password, f"def hash_of(it):\n    return hash_password(it)\n\n\n{hash_password}"),
        ("devpi_server/replica.py", "_wait_for_serial", "_await_serial"),
    )
    slow = container(env=changed)
    exported.pack(rich, slow.init_dir / "backup.tar.gz")
    slow.start().wait_ready()
    for name in ("no_fsync", "batches", "empty_hash", "changelog_waits"):
        assert 1 == slow.log.count(f"continuing without patch '{name}', which doesn't support devpi-server"), name
    again, expected = Described.of(exported.export(slow.serverdir, tmp_path / "again")), Described.of(rich)
    assert expected.files == again.files
    assert expected.data == again.data
    assert 0 == slow.stop()
