"""docs/mirror.md lists the faults of an upstream that tests/integration/test_mirror_faults.py drives."""

from __future__ import annotations

from tests.support.documents import document
from tests.support.mirror_faults import FAULTS, table


def test_the_table_of_faults() -> None:
    """Word for word; `python -m tests.support.mirror_faults` prints it."""
    assert table() in document("mirror")


def test_it_is_long_enough() -> None:
    """At least fourteen faults, each once."""
    assert len({fault.what for fault in FAULTS}) == len(FAULTS) >= 14
