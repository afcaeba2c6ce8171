"""Parse README and docs/: sections, tables, examples; and the names of the settings in the code."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")})


def document(name: str) -> str:
    """The text of a file of docs/, by its name without the suffix."""
    return (ROOT / "docs" / f"{name}.md").read_text()


def section(name: str, title: str) -> str:
    """The text of a file of docs/ under a heading of level 2 or 3, including its subsections."""
    text = document(name)
    found = re.search(rf"^(##+) {re.escape(title)}\n", text, re.MULTILINE)
    assert found, f"docs/{name}.md has no section {title!r}"
    end = re.search(rf"^#{{2,{len(found[1])}}} ", text[found.end() :], re.MULTILINE)
    return text[found.end() :][: end.start() if end else None]


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as links name them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(text: str) -> list[list[str]]:
    """Return the cells of all table rows, without heads and rules."""
    lines = text.splitlines()
    heads = {number - 1 for number, line in enumerate(lines) if re.fullmatch(r"\|(-+\|)+", line)}
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for number, line in enumerate(lines)
        if line.startswith("|") and number not in heads and number - 1 not in heads
    ]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def manifest(kind: str) -> dict[str, Any]:
    """The one Kubernetes object of that kind in docs/kubernetes-manifest.md."""
    texts = blocks(document("kubernetes-manifest"), "yaml")
    (found,) = [each for text in texts for each in YAML(typ="safe").load_all(text) if each["kind"] == kind]
    return dict(found)


@cache
def code_variables() -> frozenset[str]:
    """Every setting that `settings` and `mirror_settings` of `sidecar.core` name."""
    trees = [
        ast.parse((ROOT / "sidecar" / "core" / f"{name}.py").read_text()) for name in ("settings", "mirror_settings")
    ]
    constants = {
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return frozenset(text for text in constants if re.fullmatch(r"(DEVPI|SIDECAR)_[A-Z_]+", text))


def metrics_table() -> dict[str, tuple[str, set[str]]]:
    """Metric → type and labels, as documented."""
    return {
        cells[0].strip("`"): (cells[1], set(re.findall(r"`(\w+)`", cells[2])))
        for cells in rows(document("metrics"))
        if len(cells) == 4
    }
