"""Run `devpi-fsck` in a process of its own, which exits with it."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from pathlib import Path

from devpi_server.fsck import fsck


def run(serverdir: Path) -> tuple[int, str]:
    """Return its exit code, and all of its output."""
    sys.argv = ["devpi-fsck", "--serverdir", str(serverdir)]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        logging.basicConfig(stream=said, force=True)
        code = fsck()
    return int(code or 0), said.getvalue()
