"""Missing features of a volume, and steps that never end: `obstacles.c`, preloaded into a container's processes."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support import needs

SOURCE = Path(__file__).with_name("obstacles.c")


def build(into: Path) -> Path:
    """The compiled library. Skips the test without a C compiler; in CI that is a failure."""
    compiler = needs.compiler()
    library = into / "obstacles.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, SOURCE], check=True)
    return library


def without_links(library: Path, number: int) -> dict[str, str]:
    """An environment in which every hard link fails with this errno."""
    return {"LD_PRELOAD": str(library), "OBSTACLE_LINK": str(number)}


def stuck_in_syncfs(library: Path, reached: Path) -> dict[str, str]:
    """An environment in which the first syncfs creates the file `reached` and never ends."""
    return {"LD_PRELOAD": str(library), "OBSTACLE_SYNCFS": str(reached)}
