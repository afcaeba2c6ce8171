"""What to do after a failed import, worded once for the page and the command line."""

from __future__ import annotations

RESTART = "then restart the container"
"""After what a failed import has for `hint`."""
START_EMPTY = (
    "to start empty instead: take the archives out of DEVPI_INIT_DIR, and restart the container; if an archive itself"
    " is mounted, replace the container by one without that mount, for Docker can't start this one without the file"
)
