"""Checks the table of `sidecar.worker.patches` against an installed devpi-server, in a separate process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
_CHECK = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import devpi_server
from sidecar.worker.__main__ import import_what_serving_needs
import_what_serving_needs()
from devpi_server import config, importexport, init
import pyramid.config
config.get_pluginmanager()
from sidecar.worker.patches.patch import misses
from sidecar.worker.patches.table import PATCHES
before = set(sys.modules)
began = time.process_time()
missing = [str(miss) for miss in misses(PATCHES)]
took = time.process_time() - began
print(json.dumps([devpi_server.__version__, missing, took, sorted(set(sys.modules) - before)]))
"""


class Held(NamedTuple):
    """The result."""

    version: str
    """devpi-server's."""
    missing: list[str]
    seconds: float
    """CPU time."""
    imported: list[str]
    """Modules that were not yet imported when devpi-server serves."""


def held(folder: Path | None = None) -> Held:
    """Check the whole table against the devpi-server in `folder`; None: that of this environment."""
    env = dict(os.environ) if folder is None else {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", _CHECK]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=True)
    return Held(*json.loads(done.stdout))
