"""The cluster, the image in it, and namespaces that are removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes import cluster
from tests.kubernetes.cluster import Site
from tests.support import engine


@pytest.fixture(scope="session")
def node() -> None:
    """A cluster for tests with the image on its node."""
    cluster.require_cluster()
    engine.require()
    engine.build_told("devpi", engine.IMAGE)


@pytest.fixture(scope="session")
def leaving(node: None) -> Iterator[list[Site]]:
    """Sites that are being deleted: that takes a while, and no test needs to wait for it."""
    sites: list[Site] = []
    yield sites
    for site in sites:
        site.gone()


@pytest.fixture(scope="module")
def make_site(leaving: list[Site], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Site]]:
    """Creates namespaces, not applied yet, each with a data volume."""
    made: list[Site] = []

    def make(name: str, **options: Any) -> Site:
        site = Site(name, tmp_path_factory.mktemp(name), **options)
        made.append(site)
        site.volume("data-devpi-0")
        return site

    yield make
    for site in made:
        site.remove()
        leaving.append(site)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder that every user can read."""
    tmp_path.chmod(0o755)
    return tmp_path
