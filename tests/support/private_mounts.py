"""Containers in separate mount namespaces: small, full and read-only volumes.

Requires root (CAP_SYS_ADMIN); otherwise the tests are skipped.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.container import ENTRYPOINT


def require() -> None:
    """Skip the test if no mount namespace can be created."""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"NOT TESTED: no mount namespace can be made here: {done.stderr.strip()}")


def command(*steps: str) -> tuple[str, ...]:
    """A `Container.command` that runs the shell commands `steps` in a new mount namespace, then the entrypoint.

    The container's pid is the sidecar's, and `/proc/PID/root` shows its mounts.
    """
    require()
    script = "\n".join(["set -e", *steps, 'exec "$@"'])
    return ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *ENTRYPOINT)


def inside(pid: int, path: Path) -> Path:
    """`path` as the process `pid` sees it."""
    return Path(f"/proc/{pid}/root{os.fspath(path)}")
