"""Short versions of `bench`: a mirror in the documented limit, and many open pages."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bench import mirrors
from bench.limits import MemoryLimit
from bench.looking import STREAMS, hold_streams
from bench.rounds import Failed, Values
from testbed.sampling import MIB
from tests.support import needs
from tests.support.container import Container, cleared_away

pytestmark = pytest.mark.slow


def test_two_hundred_pages_while_nothing_happens(tmp_path: Path) -> None:
    """At most 20 MiB and 2 % of a core more than with one, over two pulses; a stop waits for none of them."""
    made = Container(tmp_path / "c", env={"SIDECAR_MONITOR_INTERVAL": "2"})
    with cleared_away(made) as looked, ExitStack() as opened:
        port = urlsplit(looked.start().wait_ready().url).port
        assert port is not None
        costs = hold_streams(opened, looked.pid, port)
        print(f"{STREAMS} streams: {costs}")
        assert costs["memory"] <= 20
        assert costs["cpu"] <= 2
        began = time.monotonic()
        assert 0 == looked.stop()
        assert time.monotonic() - began < 10


def test_a_mirror_as_large_as_pypi(tmp_path: Path) -> None:
    """Half a minute of mixed load with a mirror, in the documented limit and on half a core: nothing killed or wrong.

    `just bench soak` is the same for an hour.
    """
    values = soaked(tmp_path, 30)
    assert values["kills"] == 0
    assert values["wrong"] == 0
    assert values["ready"] == 1
    assert values["anonymous"] * MIB <= mirrors.LIMIT
    assert min(values[kind] for kind in ("cold", "wheels", "unknown names", "uploads", "logins")) > 0


def soaked(folder: Path, seconds: float) -> Values:
    """Return what `bench soak` measures in so many seconds; skipped if no limit can be set."""
    try:
        with MemoryLimit(mirrors.LIMIT, mirrors.CPUS):
            pass
    except Failed as error:
        needs.not_tested(f"no limit of memory and CPU can be set here: {error}")
    return mirrors.run(folder, seconds)
