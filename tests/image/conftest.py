"""The images, built once, and what the tests make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support import engine
from tests.support.engine import Box

TOLD = {
    "REVISION": "0123456789abcdef0123456789abcdef01234567",
    "CREATED": f"{datetime.fromtimestamp(int(engine.source_date()), UTC):%Y-%m-%dT%H:%M:%SZ}",
    "SOURCE": "https://git.example.com/devpi-sidecar.git",
    "URL": "https://devpi-sidecar.example.com",
    "PYTHON_IMAGE_DIGEST": f"sha256:{'0' * 64}",
    "SOURCE_DATE_EPOCH": engine.source_date(),
}
"""What the tests tell the build of itself, as docs/docker.md does."""


@pytest.fixture(scope="session", autouse=True)
def docker_engine() -> None:
    """Without it nothing here can be tested: says so, and fails where CI is set."""
    engine.require()


def build(target: str, tag: str) -> str:
    """A target of the Dockerfile under a tag, which is returned."""
    engine.build(target, tag, *(part for name, value in TOLD.items() for part in ("--build-arg", f"{name}={value}")))
    return tag


@pytest.fixture(scope="session")
def image(docker_engine: None) -> str:
    """The target `devpi`."""
    return build("devpi", engine.IMAGE)


@pytest.fixture(scope="session")
def web_image(docker_engine: None) -> str:
    """The target `devpi-web`."""
    return build("devpi-web", engine.WEB_IMAGE)


@pytest.fixture(scope="session")
def debug_image(image: str) -> str:
    """The target `debug`: the same with a shell."""
    return build("debug", engine.DEBUG_IMAGE)


@pytest.fixture(scope="session")
def test_image(image: str) -> str:
    """The target `test`: the same with a shell and the test suite."""
    return build("test", engine.TEST_IMAGE)


@pytest.fixture
def box(image: str) -> Iterator[Callable[..., Box]]:
    """Makes containers (not started yet), and clears them away."""
    with ExitStack() as stack:

        def make(*options: str, name: str = "c", **more: Any) -> Box:
            made = Box(name, *options, **more)
            stack.callback(made.remove)
            return made

        yield make


@pytest.fixture
def volume() -> Iterator[str]:
    """A fresh named volume, gone after the test, but after the containers on it."""
    with engine.volume() as name:
        yield name


@pytest.fixture(scope="module")
def ready(image: str) -> Iterator[Box]:
    """One ready container that the tests of a module share."""
    shared = Box("shared")
    try:
        yield shared.start().wait_ready()
    finally:
        shared.remove()
