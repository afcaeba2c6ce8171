"""A hostile upstream is no way into the network of the container: its loopback, and metadata services.

The container has its own network, whose loopback also has the address of metadata services; so nothing leaves it.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from testbed.upstream import Fault, Project, Upstream, numbered
from tests.support.container import ROOT, Container, request, wait_for
from tests.support.mirrored import Mirrored, Page
from tests.support.networks import Network, ip, network

pytestmark = pytest.mark.slow

METADATA = "169.254.169.254"
NEIGHBOUR = "10.99.7.1"
INSIDE = ("127.0.0.1", METADATA)
LATER = (502, 503, 504)


class Victim:
    """An index inside the network that no mirror may reach; for `with`."""

    def __init__(self, net: Network, host: str) -> None:
        self._command = ["ip", "netns", "exec", net.namespace, sys.executable, "-m", "testbed.upstream", "3", host]
        self.asked: list[str] = []

    def __enter__(self) -> Victim:
        self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url.startswith("http://")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.asked.extend(map(str.strip, self._process.stdout))


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    """A network whose loopback has other addresses too."""
    with network() as made:
        for address in (METADATA, NEIGHBOUR):
            ip("-netns", made.namespace, "address", "add", f"{address}/32", "dev", "lo")
        yield made


@pytest.fixture
def boxed(container: Callable[..., Container], net: Network) -> Iterator[tuple[Mirrored, Upstream]]:
    """A mirror in it, of an upstream outside that has a private address."""
    flags = ("--host", net.inside, "--port", "0", "--no-root-pypi", "--request-timeout", "5")
    made = container("boxed", command=net.command, flags=flags, env={"SIDECAR_HOST": net.inside})
    with Upstream(size=50, host=net.outside) as upstream:
        yield Mirrored(lambda _, **__: made, upstream), upstream


def test_the_network_itself_works(boxed: tuple[Mirrored, Upstream], net: Network) -> None:
    """The upstream is reached, and so would be the victims: from inside, by a plain request."""
    mirrored, _ = boxed
    assert mirrored.page("dev", numbered(0)) == Page(200, 1, None)
    for host in INSIDE:
        with Victim(net, host) as victim:
            plain = f"import urllib.request as r; print(r.urlopen({victim.url!r}).status)"
            done = subprocess.run(
                ["ip", "netns", "exec", net.namespace, sys.executable, "-c", plain],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.stdout == "200\n", done.stderr
            wait_for(lambda victim=victim: victim.asked, "that request")


@pytest.mark.parametrize("host", INSIDE)
def test_no_way_inside(boxed: tuple[Mirrored, Upstream], net: Network, host: str) -> None:
    """Neither redirects nor links lead from an upstream outside to this address."""
    mirrored, upstream = boxed
    with ExitStack() as stack:
        victim = stack.enter_context(Victim(net, host))
        upstream.page_fault = Fault(location=f"{victim.url}{numbered(1)}/")
        answer = mirrored.page("dev", numbered(1))
        assert answer.status in LATER
        assert 0 == answer.files
        upstream.heal()

        files_at = victim.url.replace("/simple/", f"/files/{numbered(2)}/")
        upstream.projects[numbered(2)] = Project(files_at=files_at)
        for url in _files(mirrored, numbered(2)):
            assert request(url).status >= 400
        upstream.file_fault = Fault(location=f"{victim.url}{numbered(1)}/")
        for url in _files(mirrored, numbered(3)):
            assert request(url).status >= 400
        upstream.heal()

        upstream.list_fault = Fault(location=victim.url)
        mirrored.put("listed", type="mirror", mirror_url=upstream.url, mirror_no_project_list=False)
        assert mirrored.page("listed", numbered(4)) == Page(200, 1, None)
        assert upstream.count("/simple/"), "the list was not asked for"
    assert [] == victim.asked


def test_an_upstream_at_a_metadata_address(boxed: tuple[Mirrored, Upstream], net: Network) -> None:
    """Such a mirror is never asked, whatever its URL says."""
    mirrored, _ = boxed
    with Victim(net, METADATA) as victim:
        mirrored.put("metadata", type="mirror", mirror_url=victim.url, mirror_no_project_list=True)
        answer = mirrored.page("metadata", numbered(1))
        assert answer.status in LATER
    assert [] == victim.asked


def _files(mirrored: Mirrored, project: str) -> list[str]:
    page = f"{mirrored.devpi}/root/dev/+simple/{project}/"
    answer = request(page, accept="application/vnd.pypi.simple.v1+json")
    assert 200 == answer.status
    base = f"{mirrored.devpi}/root/"
    return [base + each["url"].removeprefix("../../../") for each in answer.json["files"]]
