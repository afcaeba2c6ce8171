"""The imports of tests: each folder stands alone, except for `tests.support` and `testbed`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("tests", "testbed", "bench", "sidecar")
SUPPORT, PROJECT = "tests.support", "tests.project"


def module_of(path: Path) -> str:
    """The dotted name of a file of the checkout."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))}


def imported(source: str) -> Iterator[str]:
    """The modules that a source imports, also in functions; for `from package import module` the module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def is_in(name: str, package: str) -> bool:
    """Whether it is the package, or a module in it."""
    return name == package or name.startswith(f"{package}.")


def offence(importer: str, name: str) -> str | None:
    """What is wrong if `importer` imports `name`; None: nothing."""
    package, _, module = name.rpartition(".")
    if is_in(name, "tests"):
        if not is_in(importer, "tests"):
            return "only tests import tests; code shared with bench belongs in testbed"
        if module.startswith("test_"):
            return "no test file is imported; shared code belongs in tests.support"
        if not is_in(name, SUPPORT) and not (package != "tests" and is_in(importer, package)):
            return "it belongs to another folder; shared code belongs in tests.support"
    if is_in(name, "bench") and is_in(importer, "tests") and not is_in(importer, PROJECT):
        return "only tests.project imports bench; shared code belongs in testbed"
    return None


@pytest.mark.parametrize(
    ("importer", "name", "allowed"),
    [
        ("tests.web.test_page", "tests.support.needs", True),
        ("tests.web.test_page", "tests.web.conftest", True),
        ("tests.worker.patches.test_drain", "tests.worker.patches.server", True),
        ("tests.worker.test_flags", "tests.worker.patches.server", False),
        ("tests.web.test_page", "tests.web.test_status", False),
        ("tests.support.engine", "tests.web.conftest", False),
        ("tests.project.test_bench", "bench.rounds", True),
        ("tests.web.test_page", "bench.rounds", False),
        ("bench.rounds", "testbed.upstream", True),
        ("bench.rounds", "tests.support.needs", False),
    ],
)
def test_the_rule(importer: str, name: str, allowed: bool) -> None:
    """One of each kind."""
    assert allowed is (offence(importer, name) is None)


def test_imports() -> None:
    """Of every module."""
    found = [
        f"{importer} imports {name}: {why}"
        for importer, path in MODULES.items()
        for name in imported(path.read_text())
        if (why := offence(importer, name)) is not None
    ]
    assert [] == found
