"""`sidecar.worker.patches.table`: the list of foreign names is right and complete, and refers to docs/upstream.md."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from aiohttp import web

from sidecar.worker.patches.patch import Miss, Patch, misses
from sidecar.worker.patches.table import PATCHES, SEARCH_INDEX, Unknown, holds, require
from tests.support.patches_table import held

ROOT = Path(__file__).resolve().parents[3]
WORKER = ROOT / "sidecar" / "worker"
DOCUMENT = ROOT / "docs" / "upstream.md"
EVERYTHING = (*PATCHES, SEARCH_INDEX)
TARGETS = {target for patch in EVERYTHING for target in patch.targets}
NAMES = {re.split(r"[:.]", target)[-1] for target in TARGETS}
OUR_PACKAGES = ("sidecar", "tests")
PUBLIC = {
    ("output", "sys.stdout"),
    ("output", "sys.stderr"),
    ("output", "self._timer.daemon"),
    ("transfer", "timer.daemon"),
    ("serve", "tempfile.tempdir"),
    ("tools", "sys.argv"),
    ("__main__", "sys.argv"),
    ("flags", "action.default"),
    ("output", "root.handlers"),
    ("access_log", "record.__dict__"),
    ("repeats", "record.__dict__"),
    ("auth", "request.environ"),
    ("serve", "os.environ"),
    ("failures", "response.headers"),
    ("failures", "response.status_code"),
    ("mirror", "response.headers"),
    ("mirror", "response.status_code"),
    ("search_index", "config.args.indexer_backend"),
}
"""Assignments to foreign objects that are part of a documented interface."""
ADDED = {
    ("__main__", "logging.configure(style, level, 'devpi-server').phase"),
    ("storage", "writing.journal"),
    ("mirror", "client.sidecar_answer"),
    ("mirror_pages", "stage.http.sidecar_answer"),
    ("access_log", "self._thread.look"),
    ("access_log", "self._thread.path"),
    ("output", "self._threads.rest"),
    ("output", "self._threads.trace"),
}
"""Our own attributes, some on foreign objects."""


def test_the_locked_versions_have_all_of_it() -> None:
    """The installed versions miss nothing; the verification is fast and imports nothing."""
    found = held()
    assert f"devpi-server=={found.version} " in (ROOT / "requirements.lock").read_text()
    assert [] == found.missing
    assert 0.05 > found.seconds  # 4 ms on an idle machine
    assert [] == found.imported


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a module with one target of each kind."""
    (tmp_path / "foreign.py").write_text(
        "LIMIT = 0\n"
        "def plain(one, two=2): return helper(one)\n"
        "def starred(*many, only, **rest): return 'words of it'\n"
        "def keyword(one, *, only): pass\n"
        "class Thing:\n"
        "    def __init__(self): self._cache = {}\n"
        "    @staticmethod\n"
        "    def static(one): pass\n"
        "    @property\n"
        "    def shown(self): return self.inner\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "foreign", raising=False)
    return "foreign"


@pytest.mark.parametrize(
    ("target", "expected", "problem"),
    [
        ("LIMIT", "", None),
        ("plain", "(one, two)", None),
        ("plain", "(one)", "has the parameters (one, two), not (one)"),
        ("starred", "(*many, only, **rest)", None),
        ("keyword", "(one, *, only)", None),
        ("keyword", "(one, only)", "has the parameters (one, *, only), not (one, only)"),
        ("LIMIT", "(one)", "is not callable"),
        ("Thing", "()", None),
        ("Thing.static", "(one)", None),
        ("Thing.gone", "", "is missing"),
        ("Gone.static", "(one)", "is missing"),
        ("Thing._cache", "in Thing.__init__", None),
        ("Thing._cache", "in Thing", None),
        ("Thing.inner", "in Thing", None),
        ("Thing._cache", "in plain", "is not in plain"),
        ("helper", "in plain", None),
        ("helper", "in gone", "can't be verified: gone is missing"),
        ("words of", "text of starred", None),
        ("other words", "text of starred", "is not in starred"),
    ],
)
def test_each_way_to_verify(module: str, target: str, expected: str, problem: str | None) -> None:
    """A target exists, has these parameters, is used in code, or is in a string."""
    found = misses([Patch("p", ("serve",), "why", "anchor", {f"{module}:{target}": expected})])
    assert ([] if problem is None else [Miss("p", f"{module}:{target}", problem)]) == found


def test_a_module_that_is_gone_is_a_miss() -> None:
    """It raises no ImportError."""
    (miss,) = misses([Patch("p", ("serve",), "why", "anchor", {"nowhere.at_all:name": ""})])
    assert str(miss) == "nowhere.at_all:name can't be imported: No module named 'nowhere' (p)"


def test_what_is_indispensable_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """All misses of a use are reported together, without those of other uses."""
    from devpi_server.filestore_fs import FSFactory
    from devpi_server.mirror import MirrorStage

    def changed(self: MirrorStage, project: str, version: str) -> None:
        """Have the parameters that a later devpi-server might have."""

    monkeypatch.setattr(MirrorStage, "has_project_perstage", changed)
    monkeypatch.delattr(FSFactory, "from_content")
    require("init", "import")
    with pytest.raises(Unknown) as caught:
        require("serve")
    assert 70 == caught.value.code
    assert re.search(r"doesn\'t support devpi-server [\d.]+, .*waitress [\d.]+", caught.value.reason)
    assert "FSFactory.from_content is missing (durable)" in caught.value.reason
    assert "MirrorStage.has_project_perstage has the parameters (self, project, version)" in caught.value.reason


def test_what_is_dispensable_is_not_required(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The code that applies it logs a warning."""
    from devpi_server.keyfs_sqlite import BaseStorage

    assert holds("no_fsync")
    monkeypatch.delattr(BaseStorage, "_execute_conn_pragmas")
    require("import")
    assert not caplog.records
    assert not holds("no_fsync")
    (record,) = caplog.records
    assert "WARNING" == record.levelname
    assert "BaseStorage._execute_conn_pragmas is missing (no_fsync)" in record.getMessage()


def test_each_patch_says_all_of_itself() -> None:
    """It has a unique name, a reason, and at least one target."""
    names = [patch.name for patch in EVERYTHING]
    assert len(set(names)) == len(names)
    for patch in EVERYTHING:
        assert patch.uses, patch
        assert patch.targets, patch
        assert len(patch.why) > 20, patch


def test_dispensable_patches_are_asked_for() -> None:
    """The code that applies an optional patch calls `holds`."""
    asked = set(re.findall(r'table\.holds\("(\w+)"\)', "\n".join(path.read_text() for path in WORKER.rglob("*.py"))))
    assert {patch.name for patch in PATCHES if patch.only_faster} | {"search_index"} == asked


def test_upstream_has_a_section_for_each() -> None:
    """docs/upstream.md names each patch in the section that the table links to, and only there."""
    sections: dict[str, str] = {}
    for part in re.split(r"^##+ ", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]:
        title, _, text = part.partition("\n")
        sections[re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")] = text
    named = {
        anchor: re.findall(r"`(\w+)`", match[0])
        for anchor, text in sections.items()
        if (match := re.search(r"Patch(?:es)? ((?:(?:, )?`\w+`)+)", text))
    }
    listed: dict[str, list[str]] = {}
    for patch in EVERYTHING:
        listed.setdefault(patch.upstream, []).append(patch.name)
    assert {anchor: sorted(names) for anchor, names in listed.items()} == {
        anchor: sorted(names) for anchor, names in named.items()
    }
    for anchor in listed:
        assert "\nWanted: " in sections[anchor], anchor


# --- whether it is complete -------------------------------------------------------------------------------------------

MODULES = sorted(path for path in WORKER.rglob("*.py") if path.name != "__init__.py")


@functools.cache
def tree(path: Path) -> ast.Module:
    """Parse a module."""
    return ast.parse(path.read_text())


def foreign_names(path: Path) -> dict[str, str]:
    """Return each name that a module imports from foreign packages → `module` or `module:name`."""
    found = {}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {each.asname or each.name.partition(".")[0]: each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            for each in node.names:
                found[each.asname or each.name] = f"{node.module}:{each.name}"
    return {
        name: origin
        for name, origin in found.items()
        if re.split(r"[.:]", origin)[0] not in (*OUR_PACKAGES, *sys.stdlib_module_names)
    }


def assigned(path: Path) -> Iterator[ast.Attribute]:
    """Yield each attribute of an object other than `self` that a module assigns to, or to an item of."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Assign | ast.Delete):
            targets = node.targets
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        else:
            continue
        for target in targets:
            for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                attribute = each.value if isinstance(each, ast.Subscript) else each
                if isinstance(attribute, ast.Attribute) and not is_self(attribute.value):
                    yield attribute


def is_self(node: ast.expr) -> bool:
    """Whether it is `self` or `cls`."""
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


@functools.cache
def our_attributes() -> set[str]:
    """Return the names of attributes of the worker's own classes."""
    found = set()
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                for each in node.body:
                    if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                        found.add(each.target.id)
            elif isinstance(node, ast.Attribute) and is_self(node.value) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
    return found


def spelled(origin: str, name: str) -> str:
    """Return the name of an imported module or class as the table spells it."""
    return f"{origin}.{name}" if ":" in origin else f"{origin}:{name}"


def test_every_replacement_is_in_the_table() -> None:
    """All assignments of the worker to foreign modules and classes, as far as names can be resolved."""
    followed = 0
    for path in MODULES:
        foreign = foreign_names(path)
        for attribute in assigned(path):
            place = f"{path.name}:{attribute.lineno}: {ast.unparse(attribute)}"
            if isinstance(attribute.value, ast.Name) and (origin := foreign.get(attribute.value.id)):
                # `from package import module` and `from module import name` look the same
                spellings = {spelled(origin, attribute.attr), f"{origin.replace(':', '.')}:{attribute.attr}"}
                assert spellings & TARGETS, place
                followed += 1
            elif (path.stem, ast.unparse(attribute)) not in PUBLIC | ADDED:
                assert attribute.attr in NAMES | our_attributes(), place
    assert followed > 20


def test_every_private_name_is_in_the_table() -> None:
    """All names with a leading underscore that aren't of our classes; `os._exit` is documented."""
    found = set()
    for path in MODULES:
        ours = {node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute) and is_self(node.value)}
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr) and node.attr not in ours:
                found.add(node.attr)
            elif isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] not in OUR_PACKAGES:
                found |= {each.name for each in node.names if re.match(r"_[^_]", each.name)}
    assert len(found) > 10
    assert {"_exit"} == found - NAMES


def test_every_override_is_in_the_table() -> None:
    """All overrides of foreign classes in the worker."""
    overridden = set()
    for path in MODULES:
        foreign = foreign_names(path)
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.ClassDef):
                continue
            for base in node.bases:
                first, _, rest = ast.unparse(base).partition(".")
                if (origin := foreign.get(first)) is None:
                    continue
                holder = functools.reduce(getattr, filter(None, rest.split(".")), imported(origin))
                for name in defined(node):
                    if hasattr(holder, name) and not re.match(r"__", name):
                        overridden.add(f"{holder.__name__}.{name}")  # type: ignore[attr-defined]
    known = {target.partition(":")[2] for target in TARGETS}
    assert len(overridden) > 10
    assert set() == overridden - known


def imported(origin: str) -> object:
    """Import an origin that `foreign_names` returns."""
    module, _, name = origin.partition(":")
    try:
        return getattr(import_module(module), name) if name else import_module(module)
    except AttributeError:
        return import_module(f"{module}.{name}")


def defined(node: ast.ClassDef) -> set[str]:
    """Return the names that a class's body defines."""
    return {each.name for each in node.body if isinstance(each, ast.FunctionDef)} | {
        target.id
        for each in node.body
        if isinstance(each, ast.Assign)
        for target in each.targets
        if isinstance(target, ast.Name)
    }


def test_what_the_web_leans_on_in_aiohttp_is_documented() -> None:
    """Private names in `sidecar/web/server` exist in docs/upstream.md and in aiohttp."""
    text = "\n".join(path.read_text() for path in (ROOT / "sidecar" / "web" / "server").glob("*.py"))
    for name in ("AppRunner._make_server", "Server._loop"):
        assert name.rpartition(".")[2] in text
        assert f"`{name}`" in DOCUMENT.read_text()
    assert hasattr(web.AppRunner, "_make_server")
    assert "_loop" in web.Server.__init__.__code__.co_names
