"""Who may import whom: the contracts of `[tool.importlinter]` in pyproject.toml hold, and cover every module."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    """Hold the sources below `root` against the contracts."""
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
    """The contracts as pyproject.toml has them."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts: list[dict[str, Any]] = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    return contracts


def test_every_contract_is_kept() -> None:
    """import-linter looks at every import, also those inside functions."""
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", done.stdout)


def test_every_module_has_its_layer(contracts: list[dict[str, Any]]) -> None:
    """Each package's layers are exhaustive, and name no module that isn't there."""
    layered = {contract["containers"][0]: contract for contract in contracts if contract["type"] == "layers"}
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "sidecar").rglob("__init__.py")}
    assert set(layered) == packages
    for package, contract in layered.items():
        assert contract["exhaustive"] is True
        folder = ROOT.joinpath(*package.split("."))
        modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
        modules |= {path.parent.name for path in folder.glob("*/__init__.py")}
        named = [name for layer in contract["layers"] for name in re.split(r"\s*[|:]\s*", layer)]
        assert sorted(named) == sorted(modules)


def test_a_breach_is_found(tmp_path: Path) -> None:
    """The same contracts, over a copy with some imports too many, fail and name each of them."""
    for path in (ROOT / "sidecar").rglob("*.py"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    breaches = {
        "settings": "sidecar.container.supervisor",
        "serverdir": "sidecar.devpi.process",
        "web/status": "sidecar.container.supervisor",
        "web/problems": "sidecar.web.app",
        "web/openapi/schemas": "sidecar.web.openapi.page",
        "devpi/messages": "sidecar.worker.__main__",
        "supervisor": "aiohttp",
    }
    for module, imported in breaches.items():
        with (tmp_path / "sidecar" / f"{module}.py").open("a") as file:
            file.write(f"\n\ndef breach() -> None:\n    import {imported}\n")
    done = lint(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    for module, imported in breaches.items():
        assert f"sidecar.{module.replace('/', '.')} -> {imported} (l." in done.stdout
    assert "Contracts: 0 kept, 5 broken" in done.stdout
