"""The import as a section of the page: its progress, and what it loads."""

from __future__ import annotations

from collections.abc import Hashable

from sidecar.features.bootstrap.import_status import ImportState, ImportStatus

_MANY = 20
_STEPS = {
    ImportState.PENDING: "Step 1 of 3: starting to unpack",
    ImportState.EXTRACTING: "Step 1 of 3: unpacking and verifying",
    ImportState.LOADING: "Step 2 of 3: loading",
    ImportState.INSTALLING: "Step 3 of 3: installing",
}


def progress(of: ImportStatus) -> dict[str, Hashable]:
    """Return the section's values; nothing without an import. The headline says why one failed."""
    if of.state is ImportState.NONE:
        return {}
    count = of.extracted if of.state in (ImportState.PENDING, ImportState.EXTRACTING) else of.files
    done, total = (1, 1) if of.state is ImportState.INSTALLING else (min(count.done, count.total), count.total)
    return {
        "of": of,
        "step": _STEPS.get(of.state),
        "done": done,
        "total": total,
        "took": None if of.started is None or of.finished is None else (of.finished - of.started).total_seconds(),
        "more": max(0, len(of.archives) - _MANY) + max(0, len(of.ignored) - _MANY),
    }
