"""For all tests."""

from __future__ import annotations

from hypothesis import settings

# milliseconds say nothing on a busy machine, and hangs are pytest's matter
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")
