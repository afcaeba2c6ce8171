"""Two builds of one commit give one image."""

from __future__ import annotations

import pytest

from tests.container import engine
from tests.container.engine import docker

pytestmark = pytest.mark.container


def test_two_builds_of_one_commit_give_one_digest() -> None:
    """Both from nothing: no layer of the one is used for the other."""
    ids, tags = [], [engine.unique("first"), engine.unique("second")]
    date = engine.source_date()
    try:
        for tag in tags:
            ids.append(engine.build("devpi", tag, "--no-cache", "--build-arg", f"SOURCE_DATE_EPOCH={date}"))
        layers = [docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", tag).stdout for tag in tags]
        assert layers[0] == layers[1]
        assert ids[0] == ids[1]
    finally:
        docker("rmi", *tags, check=False)
