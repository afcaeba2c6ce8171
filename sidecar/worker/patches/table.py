"""The list of what we lean on: every foreign name that the worker replaces, overrides, or uses though it is private.

Each is verified when the process begins to do what it is needed for: a renamed original, which an assignment would
replace in silence, ends the process (exit code 70) with the list of all that is missing. `docs/upstream.md` says what
would make each superfluous.
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
"""All of them but for `SEARCH_INDEX`: devpi-web is optional, and so is the guard of its index."""


class Unknown(Exit):
    """What is installed is not what the patches were made for."""

    def __init__(self, missing: list[Miss]) -> None:
        reason = f"this devpi-sidecar relies on what is missing from {_versions()}: {_listed(missing)}"
        super().__init__(
            ExitCode.INTERNAL, reason, "install the versions in requirements.lock, or a newer devpi-sidecar"
        )


def require(*uses: Use) -> None:
    """Raise Unknown unless everything that is indispensable for these uses is there as we know it."""
    needed = [patch for patch in PATCHES if not patch.only_faster and not {*uses}.isdisjoint(patch.uses)]
    if missing := misses(needed):
        raise Unknown(missing)


def holds(name: str) -> bool:
    """Whether the patch of this name, which is dispensable, can be applied; logs a warning if not."""
    missing = misses(patch for patch in (*PATCHES, SEARCH_INDEX) if patch.name == name)
    if missing:
        log.warning("going on without the patch %r of %s: %s", name, _versions(), _listed(missing))
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
