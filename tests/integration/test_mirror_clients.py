"""pip and uv install a tree of packages through an outage of the mirror's upstream."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from testbed import installs
from testbed.upstream import Fault, Upstream
from tests.support import needs
from tests.support.container import PATIENCE, Container, wait_for
from tests.support.mirrored import Mirrored

pytestmark = pytest.mark.slow

OUTAGE = 4.0
"""Seconds."""
PACKAGES = 15
OUTAGES: dict[str, Callable[[Upstream], None]] = {
    "refuses": Upstream.refuse,
    "never answers": Upstream.swallow,
    "503": lambda upstream: setattr(upstream, "page_fault", Fault(503)),
    "500": lambda upstream: setattr(upstream, "page_fault", Fault(500)),
}


@pytest.fixture(params=[False, True], ids=["no list", "list"])
def mirrored(request: pytest.FixtureRequest, container: Callable[..., Container]) -> Iterator[Mirrored]:
    """A mirror that has cached nothing."""
    with Upstream(size=100, projects=installs.tree(PACKAGES)) as upstream:
        yield Mirrored(container, upstream, project_list=request.param)


@contextmanager
def installing(mirrored: Mirrored, client: str, folder: Path) -> Iterator[Callable[[], None]]:
    """Start to install the tree; what it yields waits for the end, and all of it is there."""
    if installs.found(client) is None:
        needs.not_tested(f"there is no {client} (python3 dev.py)")
    target, log = folder / "target", folder / "output"
    index = f"{mirrored.devpi}/root/dev/+simple/"
    with log.open("wb") as output:
        running = subprocess.Popen(
            installs.command(client, index, target, installs.top()),
            env=installs.environ(folder),
            stdout=output,
            stderr=output,
            cwd=folder,
        )

    def finish() -> None:
        assert running.wait(PATIENCE) == 0, log.read_text()
        assert [] == installs.missing(target, PACKAGES)

    try:
        yield finish
    finally:
        running.kill()
        running.wait()


@pytest.mark.parametrize("client", installs.CLIENTS)
@pytest.mark.parametrize("kind", OUTAGES)
def test_a_tree_through_an_outage_at_its_start(mirrored: Mirrored, tmp_path: Path, client: str, kind: str) -> None:
    """The outage begins before the first request and ends 4 s later: exit code 0, and all packages are there."""
    OUTAGES[kind](mirrored.upstream)
    end = threading.Timer(OUTAGE, mirrored.upstream.heal)
    with ExitStack() as stack:
        finish = stack.enter_context(installing(mirrored, client, tmp_path))
        stack.callback(end.join)
        end.start()
        finish()


@pytest.mark.parametrize("client", installs.CLIENTS)
def test_a_tree_through_an_outage_in_the_middle(mirrored: Mirrored, tmp_path: Path, client: str) -> None:
    """The outage begins after the first pages."""
    mirrored.upstream.delay = 0.05
    end = threading.Timer(OUTAGE, mirrored.upstream.heal)
    with ExitStack() as stack:
        finish = stack.enter_context(installing(mirrored, client, tmp_path))
        wait_for(
            lambda: sum("/simple/tree-" in path for path in mirrored.upstream.asked) >= 3, "three pages", every=0.005
        )
        mirrored.upstream.refuse()
        stack.callback(end.join)
        end.start()
        finish()


@pytest.mark.parametrize("client", installs.CLIENTS)
def test_a_tree_at_first(mirrored: Mirrored, tmp_path: Path, client: str) -> None:
    """Without any fault, right after the start."""
    with installing(mirrored, client, tmp_path) as finish:
        finish()
