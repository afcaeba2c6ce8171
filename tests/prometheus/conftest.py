"""A real Prometheus and its promtool, as Debian packages them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support import needs

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy" / "prometheus"


@pytest.fixture(scope="session", autouse=True)
def prometheus() -> None:
    """Skip these tests without Prometheus; fail if CI is set."""
    needs.program("prometheus")
    needs.program("promtool", "prometheus")


def promtool(*arguments: str | Path, text: bytes = b"") -> str:
    """Run `promtool ARGUMENTS`, which must succeed; return its output."""
    done = subprocess.run(
        ["promtool", *map(str, arguments)],
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    said = done.stdout.decode()
    assert done.returncode == 0, said
    return said


def alerts() -> list[dict[str, Any]]:
    """Return all rules of the file."""
    groups = YAML(typ="safe").load(DEPLOY / "alerts.yml")["groups"]
    return [dict(rule) for group in groups for rule in group["rules"]]
