"""Fixtures of the tests of archives."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.exports.archives import Box


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """A new pair of directories."""
    return Box(tmp_path)
