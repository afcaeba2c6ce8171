"""States that old devpi-servers wrote."""

from __future__ import annotations

import tarfile
from pathlib import Path

from tests.support.container import Container

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
ROOT_PASSWORD = "rootpw-1234"
RANDOM = {"SIDECAR_SECRET_IS_RANDOM": "true"}
"""The login secret is devpi's own, of random bytes; otherwise its derivation takes 10 s of a core."""


def put_serverdir(c: Container, version: str) -> None:
    with tarfile.open(FIXTURES / f"devpi-{version}-serverdir.tar.bz2") as archive:
        archive.extractall(c.serverdir)  # `filter` exists since Python 3.11.4
