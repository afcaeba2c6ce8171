"""Chromium: its path, its flags, and expressions that measure a page."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import ViewportSize

VIEWPORT: ViewportSize = {"width": 1040, "height": 720}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_FLAGS = (
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no requests of the browser's own
)
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
"""Milliseconds from the navigation to the first contentful paint; undefined before it."""
WEIGHT = (
    "performance.getEntries().filter(e => e.transferSize && !e.name.endsWith('/events'))"
    ".reduce((sum, e) => sum + e.transferSize, 0)"
)
"""Bytes transferred, headers included, without the event stream, which has no end."""


def browser_path() -> str | None:
    """Return the path of `$CHROMIUM`, or of the first Chromium found; None: there is none."""
    named = os.environ.get("CHROMIUM")
    return next(filter(None, map(shutil.which, (named,) if named else BROWSERS)), None)
