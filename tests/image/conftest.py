"""The images, built once, and the containers of the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support import engine
from tests.support.engine import Box


@pytest.fixture(scope="session", autouse=True)
def docker_engine() -> None:
    """Skip without Docker, and fail without it where CI is set."""
    engine.require()


@pytest.fixture(scope="session")
def image(docker_engine: None) -> str:
    """The target `devpi`."""
    return engine.build_told("devpi", engine.IMAGE)


@pytest.fixture(scope="session")
def web_image(docker_engine: None) -> str:
    """The target `devpi-web`."""
    return engine.build_told("devpi-web", engine.WEB_IMAGE)


@pytest.fixture(scope="session")
def debug_image(image: str) -> str:
    """The target `debug`: the same with a shell."""
    return engine.build_told("debug", engine.DEBUG_IMAGE)


@pytest.fixture(scope="session")
def test_image(image: str) -> str:
    """The target `test`: the same with a shell and the test suite."""
    return engine.build_told("test", engine.TEST_IMAGE)


@pytest.fixture
def box(image: str) -> Iterator[Callable[..., Box]]:
    """Creates containers (not started yet), and removes them."""
    with ExitStack() as stack:

        def make(*options: str, name: str = "c", **more: Any) -> Box:
            made = Box(name, *options, **more)
            stack.callback(made.remove)
            return made

        yield make


@pytest.fixture
def volume() -> Iterator[str]:
    """A new named volume, removed after the test and its containers."""
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
