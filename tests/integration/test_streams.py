"""What it costs that many look at the page of a real container, while nothing happens."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from bench.looking import STREAMS, hold_streams
from tests.support.container import Container

pytestmark = pytest.mark.slow


def test_two_hundred_pages_while_nothing_happens(container: Callable[..., Container]) -> None:
    """At most 20 MiB and 2 % of a core more than with one, over two pulses; and a stop waits for none of them."""
    looked = container(env={"SIDECAR_MONITOR_INTERVAL": "2"}).start().wait_ready()
    port = urlsplit(looked.url).port
    assert port is not None
    with ExitStack() as opened:
        costs = hold_streams(opened, looked.pid, port)
        print(f"{STREAMS} streams: {costs}")
        assert costs["memory"] <= 20
        assert costs["cpu"] <= 2
        began = time.monotonic()
        assert 0 == looked.stop()
        assert time.monotonic() - began < 10
