"""Names of members, as in archives."""

from __future__ import annotations

import pytest

from sidecar.exports.members import Completed, is_index


@pytest.mark.parametrize(
    "name", ["dataindex.json", "./dataindex.json", "a/dataindex.json", "dataindex.json/.", "../dataindex.json//./"]
)
def test_the_index_is_known_however_it_is_spelled(name: str) -> None:
    """As unpacking resolves the name."""
    assert is_index(name)


@pytest.mark.parametrize("name", ["", ".", "dataindex.json/x", "dataindex.json.bak", "dataindex.json/.."])
def test_others_are_not_the_index(name: str) -> None:
    """Only the last part of the name counts."""
    assert not is_index(name)


def test_what_is_completed() -> None:
    """Only the names that were added."""
    completed = Completed()
    completed.add(["a", "b"])
    assert ["a", "b"] in completed
    assert ["a"] not in completed
    assert ["a", "c"] not in completed
