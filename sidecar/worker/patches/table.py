"""List every foreign name that the worker replaces or overrides, and every private one that it uses.

The worker verifies the names of a use before it begins: assigning to a renamed original would go unnoticed. If one is
missing or different, the process exits with code 70 and reports all of them. `docs/upstream.md` lists the upstream
changes that would make the patches superfluous.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from sidecar.core.errors import Exit, ExitCode
from sidecar.worker.patches.names_before import BEFORE
from sidecar.worker.patches.names_serving import SEARCH_INDEX, SERVING
from sidecar.worker.patches.names_waitress import WAITRESS
from sidecar.worker.patches.patch import Miss, Use, misses

log = logging.getLogger("sidecar")

PATCHES = (*BEFORE, *SERVING, *WAITRESS)
"""All patches except `SEARCH_INDEX`, which is optional like devpi-web."""


class Unknown(Exit):
    """The installed packages don't fit the patches."""

    def __init__(self, missing: list[Miss]) -> None:
        reason = f"this devpi-sidecar doesn't support {_versions()}: {_listed(missing)}"
        super().__init__(
            ExitCode.INTERNAL, reason, "install the versions in requirements.lock, or a newer devpi-sidecar"
        )


def require(*uses: Use) -> None:
    """Raise Unknown if a target of a required patch for these uses is missing or different."""
    needed = [patch for patch in PATCHES if not patch.only_faster and not {*uses}.isdisjoint(patch.uses)]
    if missing := misses(needed):
        raise Unknown(missing)


def holds(name: str) -> bool:
    """Whether the optional patch of this name can be applied; log a warning if not."""
    missing = misses(patch for patch in (*PATCHES, SEARCH_INDEX) if patch.name == name)
    if missing:
        log.warning("continuing without patch %r, which doesn't support %s: %s", name, _versions(), _listed(missing))
    return not missing


def _listed(missing: list[Miss]) -> str:
    return "; ".join(map(str, missing))


def _versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for package in ("devpi-server", "devpi-web", "waitress", "argon2-cffi"):
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return ", ".join(found)
