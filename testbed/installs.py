"""A tree of packages that depend on each other, and pip and uv that install it from an index on loopback."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from testbed.upstream_pages import Project

CLIENTS = ("pip", "uv")
_ROOT = Path(__file__).resolve().parents[1]


def tree(count: int, versions: int = 3, prefix: str = "tree") -> dict[str, Project]:
    """Return `count` projects: each requires up to three others, so that `top` requires all."""
    made = {}
    for number in range(count):
        required = {2 * number + 1, 2 * number + 2, number + 3} & set(range(count))
        requires = tuple(f"{_name(prefix, each)}>=1.0" for each in sorted(required))
        made[_name(prefix, number)] = Project(requires, versions)
    return made


def top(prefix: str = "tree") -> str:
    """Return the project that requires the whole tree."""
    return _name(prefix, 0)


def _name(prefix: str, number: int) -> str:
    return f"{prefix}-{number:02d}"


def missing(target: Path, count: int, prefix: str = "tree") -> list[str]:
    """Return the modules of a tree that are not in the folder."""
    modules = (f"{_name(prefix, number).replace('-', '_')}.py" for number in range(count))
    return [module for module in modules if not (target / module).is_file()]


def found(client: str) -> str | None:
    """Return the path of a client's program; None: it is not installed."""
    if client == "pip":
        return sys.executable
    beside = [str(Path(sys.executable).parent), str(_ROOT / ".tools" / "bin"), os.environ.get("PATH", os.defpath)]
    return shutil.which("uv", path=os.pathsep.join(beside))


def command(client: str, index: str, target: Path, project: str) -> list[str]:
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
