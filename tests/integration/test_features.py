"""The seam for features: a new one is some files of its own and five edits, and has all that the others have."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.container import PYTHON, ROOT, Container, cleared_away

NEW = {
    "features/notes/__init__.py": '"""Notes."""\n',
    "features/notes/keeping.py": '''
"""The feature `notes`, which does nothing but what a test looks at."""

import asyncio
import logging
import os

from sidecar.core.board import Board
from sidecar.core.check import PASS, Verdict
from sidecar.core.errors import Exit
from sidecar.core.sample import gauge
from sidecar.features.hooks import Hooks

log = logging.getLogger(__name__)
FAILS = os.environ.get("NOTES_FAIL")


class Notes(Hooks):
    name = "notes"

    def __init__(self, board: Board) -> None:
        self.hooks: list[str] = []
        self._board = board
        board.declare("notes", "notes are taken", gates=True)

    def _note(self, hook: str) -> None:
        self.hooks.append(hook)
        log.info("hook: %s", hook)

    async def configured(self, configured):
        self._note("configured")
        return configured

    async def opened(self, serverdir):
        self._note("opened")

    async def prepare(self, plan):
        if FAILS == "prepare":
            raise Exit(42, "no pen", "buy one")
        self._note("prepare")
        return plan

    async def launching(self, serve, plan):
        self._note("launching")
        return serve

    async def devpi_up(self, running):
        self._note("devpi_up")
        self._board.push("notes", Verdict(PASS, value=len(self.hooks), unit="hooks"))
        self._board.changed()

    async def stopping(self):
        self._note("stopping")
        if FAILS == "stopping":
            await asyncio.Event().wait()
        if FAILS == "raises":
            raise RuntimeError("out of ink")

    async def devpi_down(self):
        self._note("devpi_down")

    async def run(self):
        if FAILS == "run":
            raise RuntimeError("out of ink")
        await super().run()

    def status(self):
        return {"notes": {"hooks": self.hooks}}

    def samples(self):
        return [gauge("devpi_sidecar_notes", "Hooks that were called.", len(self.hooks))]
''',
    "web/api/notes.py": '''
"""`/notes`."""

from aiohttp import web

from sidecar.features.notes.keeping import Notes
from sidecar.web.context import CONTEXT


async def notes(request: web.Request) -> web.Response:
    """The hooks that were called.

    200: always.
    """
    return web.json_response(request.app[CONTEXT].of(Notes).hooks)
''',
    "web/page/templates/notes.html": """
<h2>Notes</h2>
<p>{{ hooks | join(", ") }}</p>
""",
}
_IMPORTED = "from sidecar.features.notes.keeping import Notes\n"
_COUNTING = "        Counting(lifecycle, board, health),\n"
_VERSION = '    commands.add_parser("version"'
_PARSER = '    commands.add_parser("notes", help="print the hooks")\n'
_TOKEN = '        case "token":\n'
_NOTES = '        case "notes":\n            return _write(str(_ask(directory, "GET", "/notes", 10).content))\n'
_PATH = """\
  /notes:
    get:
      tags: [state]
      summary: The hooks that were called.
      responses:
        "200":
          description: Always.
          content:
            application/json:
              schema: {type: array, items: {type: string}}
"""
_FIELD = """\
        notes:
          type: object
          properties:
            hooks: {type: array, items: {type: string}}
          required: [hooks]
          additionalProperties: false
"""
_SECTION = '    "notes": lambda context: {"hooks": tuple(context.of(Notes).hooks)},\n'
EDITS = {
    "container/features.py": {
        "from sidecar.storage.runtime_dir": f"{_IMPORTED}from sidecar.storage.runtime_dir",
        _COUNTING: f"{_COUNTING}        Notes(board),\n",
    },
    "web/app.py": {
        "from sidecar.web.api import bootstrap,": "from sidecar.web.api import notes, bootstrap,",
        "ROUTES = (\n": 'ROUTES = (\n    web.get("/notes", notes.notes),\n',
    },
    "web/page/report.py": {
        "from sidecar.features.numbers.amounts": f"{_IMPORTED}from sidecar.features.numbers.amounts",
        '] = {\n    "mirrors":': f'] = {{\n{_SECTION}    "mirrors":',
    },
    "web/openapi/openapi.yaml": {
        "\npaths:\n": f"\npaths:\n{_PATH}",
        "wrong_admin_tokens, mirrors]": "wrong_admin_tokens, mirrors, notes]",
        "        mirrors:\n          anyOf:": f"{_FIELD}        mirrors:\n          anyOf:",
    },
    "cli/commands.py": {_VERSION: _PARSER + _VERSION, _TOKEN: _NOTES + _TOKEN},
}
"""File → what is replaced there, and by what."""
UP = ["configured", "opened", "prepare", "launching", "devpi_up"]
DOWN = ["stopping", "devpi_down"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with an additional feature."""
    copy = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "sidecar", copy / "sidecar", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "entrypoint.py", copy)
    for name, content in NEW.items():
        (copy / "sidecar" / name).parent.mkdir(exist_ok=True)
        (copy / "sidecar" / name).write_text(content.lstrip())
    for name, replaced in EDITS.items():
        path = copy / "sidecar" / name
        text = path.read_text()
        for before, after in replaced.items():
            assert 1 == text.count(before), (name, before)
            text = text.replace(before, after)
        path.write_text(text)
    subprocess.run([sys.executable, ROOT / "setup.py", "--quiet", "build_openapi"], cwd=copy, check=True)
    return copy


@pytest.fixture
def container(checkout: Path, tmp_path: Path) -> Iterator[Container]:
    with cleared_away(Container(tmp_path / "c", command=(PYTHON, str(checkout / "entrypoint.py")))) as made:
        yield made


def hooks(container: Container) -> list[str]:
    """Return the hooks that were called, by the log."""
    return re.findall(r"hook: (\w+)", container.log)


def test_at_most_five_files_are_touched() -> None:
    """A feature needs few edits: that is the purpose of the seam."""
    assert len(EDITS) <= 5


def test_a_feature_has_what_the_others_have(container: Container, checkout: Path) -> None:
    """Status, check, metric, section of the page, route, command and description; each hook at its time."""
    container.start().wait_ready()
    assert UP == hooks(container)
    assert {"hooks": UP} == container.status()["notes"]
    assert UP == container.get("/notes").json
    check = container.get("/readyz/notes", accept="application/json").json
    assert ("pass", 5, "hooks", True) == tuple(check[name] for name in ("status", "value", "unit", "gates"))
    assert "\ndevpi_sidecar_notes 5.0\n" in container.get("/metrics").body.decode()
    page = container.get("/", accept="text/html").body.decode()
    assert '<section class="card"><div id="notes" data-section><h2>Notes</h2><p>configured, opened' in page
    assert "notes <small>notes are taken</small>" in page
    done = subprocess.run(
        [PYTHON, "-m", "sidecar.cli", "notes"],
        cwd=checkout,
        env=container.given_environ,
        capture_output=True,
        check=True,
    )
    assert f"{UP}\n" == done.stdout.decode()
    described = container.get("/openapi.json").json
    assert "The hooks that were called." == described["paths"]["/notes"]["get"]["summary"]
    assert "notes" in described["components"]["schemas"]["Status"]["required"]
    assert "notes" in described["components"]["schemas"]["CheckName"]["enum"]
    assert 0 == container.stop()
    assert [*UP, *DOWN] == hooks(container)[: len(UP) + len(DOWN)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fails", "code", "log"),
    [
        ("prepare", 42, "no pen; buy one"),
        ("run", 70, "the sidecar's task 'notes' ended unexpectedly; report this with the log"),
    ],
)
def test_a_hook_that_fails_on_the_way_up(container: Container, fails: str, code: int, log: str) -> None:
    """It ends the container with the specified exit code."""
    container.env["NOTES_FAIL"] = fails
    assert code == container.start().wait_end()
    assert log in container.log


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fails", "log"),
    [
        ("stopping", "the feature notes did not stop within 2 s and was abandoned"),
        ("raises", "RuntimeError: out of ink"),
    ],
)
def test_a_hook_that_fails_on_the_way_down(container: Container, fails: str, log: str) -> None:
    """It is logged; the stop continues, and is a clean one."""
    container.env["NOTES_FAIL"] = fails
    container.start().wait_ready()
    assert 0 == container.stop()
    assert log in container.log
    assert "devpi_down" in hooks(container)
