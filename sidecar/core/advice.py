"""What to do after a failed import: texts that the page and the command line share."""

from __future__ import annotations

RESTART = "then restart the container"
"""Follows the `hint` of a failed import."""
START_EMPTY = (
    "to start empty instead: remove the archives from DEVPI_INIT_DIR and restart the container; if an archive itself"
    " is mounted, recreate the container without that mount, because Docker can't start this one without the file"
)
