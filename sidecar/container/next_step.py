"""What an operator does next, logged once devpi-server is ready: open the page, claim root's password."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from sidecar.core.lifecycle import Lifecycle, Phase, Snapshot
from sidecar.features.credentials import password_advice
from sidecar.features.credentials.keeper import Credentials

log = logging.getLogger(__name__)


class NextStep:
    """Logs the next step when the lifecycle is ready for the first time."""

    def __init__(self, lifecycle: Lifecycle, credentials: Credentials, url: str) -> None:
        """`url`: where the sidecar listens, without a trailing slash."""
        self._credentials = credentials
        self._url = url
        self._logged = False
        lifecycle.subscribe(self._lived)

    def _lived(self, _before: Snapshot, after: Snapshot) -> None:
        if after.phase is not Phase.READY or self._logged:
            return
        self._logged = True
        log.info("the page is at %s/", self._url)
        if password_advice.claimable(self._credentials.root_password):
            log.info("root's password is not claimed yet; to print it (only once), run: %s claim", command())


def command() -> str:
    """Return how to call `sidecar` from this working directory: its name if PATH has it, otherwise its path."""
    import shutil  # imports bz2 and lzma, which not every start needs

    script = Path(sys.executable).with_name("sidecar")
    found = shutil.which("sidecar")
    if found is not None and Path(found) == script:
        return "sidecar"
    try:
        return str(script.relative_to(Path.cwd()))
    except (ValueError, OSError):  # elsewhere, or the working directory no longer exists
        return str(script)
