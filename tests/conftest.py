"""For all tests."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("busy", deadline=None)  # milliseconds say nothing on a busy machine; hangs are pytest's matter
settings.load_profile("busy")
