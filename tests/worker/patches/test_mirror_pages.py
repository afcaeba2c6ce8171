"""`sidecar.worker.patches.mirror_pages`: pages with a lower serial; tests/integration/test_mirror*.py has the rest."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from devpi_server.mirror import MirrorStage

from sidecar.worker.patches import mirror_pages


def test_a_lower_serial_is_accepted_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """At first it may be an old copy; after ten minutes it is another upstream, which is right from then on."""
    monkeypatch.setattr(MirrorStage, "ignore_serial_header", MirrorStage.ignore_serial_header)  # undone after the test
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(mirror_pages.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(mirror_pages, "_lagging", {})
    mirror_pages._accept_lower_serials()
    stage: Any = SimpleNamespace(ixconfig={})

    def is_accepted(project: str) -> bool:
        token = mirror_pages._page.set(("root/pypi", project))
        try:
            return bool(MirrorStage.ignore_serial_header.__get__(stage))
        finally:
            mirror_pages._page.reset(token)

    assert not is_accepted("one")
    clock.now += 599.0
    assert not is_accepted("one")
    assert not is_accepted("other")
    clock.now += 1.0
    assert is_accepted("one")
    assert not is_accepted("other")
    stage.ixconfig["mirror_ignore_serial_header"] = True
    assert is_accepted("other")
