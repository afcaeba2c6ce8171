"""Chromium: where it is, how it is started, and what it says of a page."""

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
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # whatever the browser itself would like to ask
)
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
"""Milliseconds from the navigation to the first paint with content, as the browser tells; nothing before it."""
WEIGHT = (
    "performance.getEntries().filter(e => e.transferSize && !e.name.endsWith('/events'))"
    ".reduce((sum, e) => sum + e.transferSize, 0)"
)
"""Bytes that came over the wire, headers included, of everything but the stream of events, which has no end."""


def browser_path() -> str | None:
    """The Chromium named by `$CHROMIUM`, or the first that is found."""
    named = os.environ.get("CHROMIUM")
    return next(filter(None, map(shutil.which, (named,) if named else BROWSERS)), None)
