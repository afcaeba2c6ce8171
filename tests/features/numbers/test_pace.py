"""`sidecar.features.numbers.pace`: requests, uploads and their rate, of what devpi-server counts."""

from __future__ import annotations

from sidecar.devpi.protocol import Requests
from sidecar.features.numbers.pace import Pace


class Devpi:
    """Counts and a time."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.counted: Requests | None = None
        self.pace = Pace(lambda: self.counted, lambda: self.at)

    def go_on(self, seconds: float, *, simple: int, uploads: int, refused: int = 0) -> None:
        """After so many seconds this is the total of answered requests."""
        self.at += seconds
        self.counted = Requests(
            {
                "simple": {"statuses": {"200": simple, "404": 1}},
                "upload": {"statuses": {"200": uploads, "403": refused}},
            }
        )
        self.pace.look()


def test_nobody_has_asked_for_anything() -> None:
    """Without requests there are no numbers; the rate is unknown before two samples."""
    devpi = Devpi()
    assert (0, 0, None) == (devpi.pace.requests(), devpi.pace.uploads(), devpi.pace.last_upload)
    devpi.pace.look()
    assert devpi.pace.per_second() is None
    devpi.at += 4.9
    devpi.pace.look()
    assert devpi.pace.per_second() is None
    devpi.at += 0.2
    devpi.pace.look()
    assert 0 == devpi.pace.per_second()


def test_the_rate_is_that_of_the_last_minute() -> None:
    """However long it was quiet, or busy, before."""
    devpi = Devpi()
    for minute in range(30):
        for second in range(0, 60, 5):
            devpi.go_on(5, simple=60 * minute + second, uploads=0)
    assert 1 == devpi.pace.per_second()
    assert 60 * 29 + 55 + 1 == devpi.pace.requests()
    for _ in range(13):
        devpi.go_on(5, simple=60 * 29 + 55, uploads=0)
    assert 0 == devpi.pace.per_second()


def test_the_last_upload() -> None:
    """The time of the tick; a refused upload is none."""
    devpi = Devpi()
    devpi.go_on(1, simple=1, uploads=0, refused=3)
    assert devpi.pace.last_upload is None
    devpi.go_on(1, simple=1, uploads=1, refused=3)
    seen = devpi.pace.last_upload
    assert seen is not None
    devpi.go_on(1, simple=9, uploads=1, refused=9)
    assert seen is devpi.pace.last_upload
    assert 1 == devpi.pace.uploads()
