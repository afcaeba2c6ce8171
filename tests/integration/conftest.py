"""Fixtures of the tests that run the real thing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support import exported, needs
from tests.support.container import ROOT, Container, cleared_away, python_of_everybody

OTHER_USER = 12345


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Callable[..., Container]]:
    """Return a function that makes containers, not started yet; removes them at the end."""
    with ExitStack() as stack:

        def make(name: str = "c", **options: Any) -> Container:
            return stack.enter_context(cleared_away(Container(tmp_path / name, **options)))

        yield make


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A ready container that the tests of a module share; its root password is not claimed at first."""
    with cleared_away(Container(tmp_path_factory.mktemp("shared"))) as shared:
        yield shared.start().wait_ready()


@pytest.fixture
def other_user() -> Iterator[Callable[..., Container]]:
    """Return a function that makes containers of another user than root; removes them at the end."""
    needs.root("start a process as another user")
    if (found := python_of_everybody()) is None:
        pytest.skip("no Python with these packages that another user may run")
    python, env = found
    home = Path(tempfile.mkdtemp(prefix="devpi-sidecar-tests-"))
    home.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)

        def make(user: int = OTHER_USER, name: str = "c", **options: Any) -> Container:
            options["env"] = env | options.get("env", {})
            made = Container(home / name, user=user, command=(python, str(ROOT / "entrypoint.py")), **options)
            os.chown(made.home, user, user)
            return stack.enter_context(cleared_away(made))

        yield make


def tool(name: str, *arguments: str) -> None:
    """Run one of devpi's own tools, which must succeed."""
    code = f"import sys; from importlib.metadata import entry_points as e; sys.argv[0] = {name!r}; "
    code += f"sys.exit(e(group='console_scripts')[{name!r}].load()())"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def made_by_devpi(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A state by real `devpi-init` with this root password (empty: devpi's default), or the export of such a state.

    Each is made once and must not be changed: copy it.
    """
    made: dict[tuple[str, bool], Path] = {}

    def make(password: str, *, export: bool = False) -> Path:
        if (password, False) not in made:
            state = tmp_path_factory.mktemp("made") / "state"
            given = ["--root-passwd", password] if password else []
            tool("devpi-init", "--serverdir", str(state), "--no-root-pypi", *given)
            made[password, False] = state
        if export and (password, True) not in made:
            target = made[password, False].with_name("export")
            tool("devpi-export", "--serverdir", str(made[password, False]), str(target))
            made[password, True] = target
        return made[password, export]

    return make


@pytest.fixture(scope="session")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a rich export, made once by a real devpi-server."""
    return exported.make_rich(tmp_path_factory.mktemp("rich"))
