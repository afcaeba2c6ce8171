"""`docker stop` during a slow download: all of it arrives, although the engine takes the container's network away."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from tests.support import engine
from tests.support.container import login_token, make_index, request, upload, wait_for
from tests.support.engine import Box
from tests.support.transfers import downloading

pytestmark = pytest.mark.image

SMALL, LARGE = 300_000, 3_000_000
"""Bytes of a file that the kernel accepts at once, and of one that takes longer."""
RATE = 300_000
"""Bytes a second of a slow client: it is many seconds behind the kernel."""
DELIVERING = "still being delivered"


def own_address(box: Box, link: str) -> str:
    """Return `link` with the container's own address, bypassing published ports."""
    networks = box.inspect()["NetworkSettings"]["Networks"]
    own = f"http://{networks['bridge']['IPAddress']}:3141"
    try:
        assert 200 == request(f"{own}/+api").status
    except OSError as error:
        engine.not_here(f"this engine's containers can't be reached at their own addresses: {error}")
    return own + urlsplit(link).path


def serve_file(box: Box, size: int) -> tuple[str, bytes]:
    """Start it with a file; return the file's link and content."""
    box.start().wait_ready()
    content = os.urandom(size)
    token = login_token(box.devpi, box.claim())
    link = upload(make_index(box.devpi, token), token, "big", content).partition("#")[0]
    return own_address(box, link), content


def test_a_slow_download_is_delivered(box: Callable[..., Box]) -> None:
    """A client of 300 kB/s gets all of its 3 MB, and the container's exit code is 0."""
    run = box()
    link, content = serve_file(run, LARGE)
    with downloading(link) as rest, subprocess.Popen(["docker", "stop", "--time", "40", run.name]) as stop:
        assert content == rest(RATE)
        assert 0 == stop.wait(60)
    assert 0 == run.state["ExitCode"]
    assert "not delivered" not in run.log


def test_a_client_that_begins_to_read_late(box: Callable[..., Box]) -> None:
    """It reads only after devpi-server's exit: the container's kernel has everything, and keeps it until then."""
    run = box()
    link, content = serve_file(run, SMALL)
    with downloading(link) as rest, subprocess.Popen(["docker", "stop", "--time", "40", run.name]) as stop:
        wait_for(lambda: DELIVERING in run.log or not run.state["Running"], "devpi-server's exit")
        assert content == rest()
        assert 0 == stop.wait(60)
    assert 0 == run.state["ExitCode"]


def test_a_client_that_never_reads_costs_the_grace(box: Callable[..., Box]) -> None:
    """The container exits with code 0 when the grace is over, and its log reports what is lost."""
    run = box("--env", "SIDECAR_STOP_GRACE=3")
    link, _ = serve_file(run, SMALL)
    with downloading(link):
        assert 0 == run.stop()
    assert "bytes on 1 connection were not delivered" in run.log
