"""`kubectl delete pod` during a slow download: all of it arrives, although the kubelet removes the pod's network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.kubernetes.cluster import Site, ended_pods_forgotten
from tests.support import engine
from tests.support.container import login_token, make_index, upload, wait_for
from tests.support.transfers import downloading

pytestmark = pytest.mark.kubernetes

SMALL, LARGE = 300_000, 4_500_000
"""Bytes of a file that the kernel accepts at once, and of one that takes longer than SIDECAR_STOP_DELAY."""
RATE = 300_000
"""Bytes a second of a slow client: it is many seconds behind the kernel."""
DELIVERING = "still being delivered"


@pytest.fixture(scope="module")
def site(make_site: Callable[..., Site]) -> Site:
    """A pod, and after it the next one, with the delay and the grace of the manifests."""
    return make_site("delivery").apply().wait_ready()


@pytest.fixture(scope="module")
def index(site: Site) -> tuple[str, str]:
    """An index, and a token for uploads to it."""
    site.wait_reachable()
    token = login_token(site.devpi, site.claim())
    return make_index(site.devpi, token), token


@contextmanager
def deleted(site: Site) -> Iterator[Future[int]]:
    """Delete the pod; the future has its container's exit code. Afterwards the next pod is ready."""
    container = site.container_id()
    with ThreadPoolExecutor() as pool, ended_pods_forgotten(site.namespace):
        ended = pool.submit(lambda: int(engine.docker("wait", container).stdout))
        site.kubectl("delete", "pod", "devpi-0", "--wait=false")
        yield ended
        ended.result()
        wait_for(lambda: site.container.get("containerID", "").removeprefix("docker://") != container, "the next pod")
    site.wait_ready().wait_reachable()


def test_a_slow_download_is_delivered(site: Site, index: tuple[str, str]) -> None:
    """A client of 300 kB/s, through the Service, gets all of it, and the container's exit code is 0."""
    content = os.urandom(LARGE)
    link = upload(*index, "large", content).partition("#")[0]
    with downloading(link) as rest, deleted(site) as ended:
        assert content == rest(RATE)
        assert 0 == ended.result()


def test_a_client_that_begins_to_read_late(site: Site, index: tuple[str, str]) -> None:
    """It reads only after devpi-server's exit: the pod's kernel has everything then, and keeps it that long."""
    content = os.urandom(SMALL)
    link = upload(*index, "small", content).partition("#")[0]
    with downloading(link) as rest, deleted(site) as ended:
        wait_for(lambda: ended.done() or DELIVERING in site.log, "devpi-server's exit")
        assert content == rest()
        assert 0 == ended.result()
