"""A tree of packages that depend on each other, and pip and uv that install it from an index on loopback."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from testbed.upstream_pages import Project

TOP = "tree-00"
"""Installing it installs the whole tree."""
CLIENTS = ("pip", "uv")
_ROOT = Path(__file__).resolve().parents[1]


def tree(count: int, versions: int = 3) -> dict[str, Project]:
    """Return `count` projects: each requires two others, and all but the last ones one that others require too."""
    made = {}
    for number in range(count):
        required = {2 * number + 1, 2 * number + 2, number + 3} & set(range(count))
        requires = tuple(f"{_name(each)}>=1.0" for each in sorted(required))
        made[_name(number)] = Project(requires, versions)
    return made


def _name(number: int) -> str:
    return f"tree-{number:02d}"


def found(client: str) -> str | None:
    """Return the path of a client's program; None: it is not installed."""
    if client == "pip":
        return sys.executable
    beside = [str(Path(sys.executable).parent), str(_ROOT / ".tools" / "bin"), os.environ.get("PATH", os.defpath)]
    return shutil.which("uv", path=os.pathsep.join(beside))


def command(client: str, index: str, target: Path, project: str = TOP) -> list[str]:
    """Return a command that installs a project with its dependencies into a folder, without any cache or settings.

    `index`: the URL of an index's simple pages.
    """
    program = found(client)
    assert program is not None, f"{client} is not installed"
    if client == "pip":
        options = ["--isolated", "--no-cache-dir", "--disable-pip-version-check", "--no-input"]
        return [program, "-m", "pip", "install", *options, "-q", "-i", index, "--target", str(target), project]
    options = ["--no-cache", "--no-config", "--python", sys.executable, "--link-mode", "copy"]
    return [program, "pip", "install", *options, "-q", "--default-index", index, "--target", str(target), project]


def environ(home: Path) -> dict[str, str]:
    """Return the whole environment of such a command, which has no other index."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "PIP_CONFIG_FILE": os.devnull}
