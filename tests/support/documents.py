"""What the documents say, taken apart, and what the code says of settings."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def rows(text: str) -> list[list[str]]:
    """The cells of all table rows, without heads and rules."""
    lines = text.splitlines()
    heads = {number - 1 for number, line in enumerate(lines) if re.fullmatch(r"\|(-+\|)+", line)}
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for number, line in enumerate(lines)
        if line.startswith("|") and number not in heads and number - 1 not in heads
    ]


def blocks(language: str) -> list[str]:
    """The README's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def manifest(kind: str) -> dict[str, Any]:
    """The one Kubernetes object of that kind in the README."""
    documents = [each for text in blocks("yaml") for each in YAML(typ="safe").load_all(text)]
    (found,) = [each for each in documents if each["kind"] == kind]
    return dict(found)


@cache
def code_variables() -> frozenset[str]:
    """Every setting that `sidecar/core/settings.py` names."""
    tree = ast.parse((ROOT / "sidecar" / "core" / "settings.py").read_text())
    constants = {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return frozenset(text for text in constants if re.fullmatch(r"(DEVPI|SIDECAR)_[A-Z_]+", text))


def metrics_table() -> dict[str, tuple[str, set[str]]]:
    """Metric → type and labels, as documented."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    return {
        cells[0].strip("`"): (cells[1], set(re.findall(r"`(\w+)`", cells[2])))
        for cells in rows(text)
        if len(cells) == 4
    }
