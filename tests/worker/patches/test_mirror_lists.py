"""`sidecar.worker.patches.mirror_lists`: the listing; tests/integration/test_mirror*.py has the rest."""

from __future__ import annotations

from sidecar.worker.patches.mirror_lists import _Listing, _sorted


def test_a_listing_is_sorted_without_being_held() -> None:
    """A browser's listing of 650,000 names would take 70 MiB if devpi sorted it."""
    listing = _Listing(lambda: iter(["A", "c.c", "d"]), ["b", "d", "e"])
    assert list(listing) == ["a", "b", "c-c", "d", "e"]
    assert _sorted(listing) is listing
    assert _sorted(["b", "a"]) == ["a", "b"]
    assert _sorted(["b", "a"], reverse=True) == ["b", "a"]
