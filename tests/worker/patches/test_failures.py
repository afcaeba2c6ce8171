"""`sidecar.worker.patches.failures`: the Retry-After that a client gets, and errors without secrets.

`tests/integration/test_mirror.py` tests it with a real devpi-server.
"""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from sidecar.worker.patches.failures import LONGEST, RETRY_AFTER, seconds, shown


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (None, RETRY_AFTER),
        ("", RETRY_AFTER),
        ("7", 7),
        (" 7 ", 7),
        ("0", 1),
        ("-7", RETRY_AFTER),
        ("7.5", RETRY_AFTER),
        ("\u0667", RETRY_AFTER),
        ("9" * 5000, LONGEST),
        ("tomorrow", RETRY_AFTER),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 1),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST),
        ("Fri, 99 Dec 9999 23:59:59 GMT", RETRY_AFTER),
    ],
)
def test_seconds(said: str | None, told: int) -> None:
    """A number or a date, at most an hour; the default if it is absent or neither."""
    assert told == seconds(said)


def test_seconds_to_a_date() -> None:
    """Relative to now."""
    assert 58 <= seconds(formatdate(time.time() + 60, usegmt=True)) <= 62


@pytest.mark.parametrize("url", ["https://u:s3cret@h/simple/x/", "https://h/simple/x/?token=s3cret", "http://h?s3cret"])
def test_no_secret_of_a_url_is_shown(url: str) -> None:
    """Anybody who may see an index sees how its mirror failed."""
    said = shown(RuntimeError(f"{url!r}: 500 Server Error"))
    assert "s3cret" not in said
    assert "h" in said
    assert said.endswith(": 500 Server Error")
