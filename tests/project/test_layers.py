"""The import rules: the contracts of `[tool.importlinter]` in pyproject.toml are kept, and cover every module."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    """Check the sources below `root` against the contracts."""
    return subprocess.run(
        [str(LINT_IMPORTS), "--config", str(ROOT / "pyproject.toml"), "--no-cache", "--no-logo"],
        cwd=root,
        env={"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.fixture(scope="module")
def contracts() -> list[dict[str, Any]]:
    """The contracts in pyproject.toml."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts: list[dict[str, Any]] = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    return contracts


def test_every_contract_is_kept() -> None:
    """import-linter checks every import, also those inside functions."""
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", done.stdout)


def test_every_room_has_its_floor(contracts: list[dict[str, Any]]) -> None:
    """The floors are exhaustive and name existing rooms only; a room's `__init__.py` has only a docstring."""
    layered = {contract["containers"][0]: contract for contract in contracts if contract["type"] == "layers"}
    assert {"sidecar", "sidecar.features"} == set(layered)
    for package, contract in layered.items():
        assert contract["exhaustive"] is True
        folder = ROOT.joinpath(*package.split("."))
        rooms = {path.parent.name for path in folder.glob("*/__init__.py")}
        rooms |= {path.stem for path in folder.glob("*.py") if path.name != "__init__.py"}
        named = {name for layer in contract["layers"] for name in re.split(r"\s*[|:]\s*", layer)}
        assert rooms == {name for name in named if not name.startswith("(")}
    assert not [path.name for path in (ROOT / "sidecar").glob("*.py") if path.name != "__init__.py"]
    for path in (ROOT / "sidecar").glob("*/**/__init__.py"):
        (docstring,) = ast.parse(path.read_text()).body
        assert isinstance(docstring, ast.Expr), path


def test_no_two_modules_have_one_name() -> None:
    """A module's name in a message or a commit is unambiguous."""
    names = Counter(path.stem for path in (ROOT / "sidecar").rglob("*.py"))
    assert {"__init__", "__main__"} == {name for name, times in names.items() if times > 1}


def test_modules_are_short() -> None:
    """300 lines at most."""
    lines = {path: path.read_text().count("\n") for path in (ROOT / "sidecar").rglob("*.py")}
    assert lines
    assert not {path.name: number for path, number in lines.items() if number > 300}


def test_few_rooms_import_each_other() -> None:
    """At most 35 pairs of rooms import each other."""
    rooms = [path for path in sorted((ROOT / "sidecar").rglob("*.py")) if len(path.relative_to(ROOT).parts) > 2]
    pairs = set()
    for path in rooms:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sidecar."):
                assert node.module is not None
                names = [f"{node.module}.{each.name}" for each in node.names]
                pairs |= {(path.relative_to(ROOT).parts[1], name.split(".")[1]) for name in names}
    between = {pair for pair in pairs if pair[0] != pair[1]}
    assert 10 < len(between) <= 35, sorted(between)


def test_a_breach_is_found(tmp_path: Path) -> None:
    """The contracts, on a copy with forbidden imports, fail and name each of them."""
    for path in (ROOT / "sidecar").rglob("*.py"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    breaches = {
        "core/settings": "sidecar.storage.serverdir",
        "features/health/monitor": "sidecar.features.credentials.users",
        "exports/sources": "sidecar.exports.merge",
        "web/api/status": "sidecar.worker.flags",
        "cli/commands": "devpi_server",
        "container/main": "aiohttp",
        "web/serializers": "prometheus_client",
        "cli/render": "jinja2",
    }
    for module, imported in breaches.items():
        with (tmp_path / "sidecar" / f"{module}.py").open("a") as file:
            file.write(f"\n\ndef breach() -> None:\n    import {imported}\n")
    done = lint(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    for module, imported in breaches.items():
        if module == "exports/sources":  # a cycle in one room is reported by the names in it
            found = re.search(r"sidecar\.exports\.\n[^\n]*\n\n- \.sources -> \.merge ", done.stdout) is not None
        else:
            found = f"sidecar.{module.replace('/', '.')} -> {imported} (l." in done.stdout
        assert found, f"{module} imports {imported}: {done.stdout}"
    assert "Contracts: 0 kept, 8 broken" in done.stdout
