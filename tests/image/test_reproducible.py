"""Two builds of one commit give the same image."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.support import engine
from tests.support.engine import ROOT, docker, exported_files

pytestmark = pytest.mark.image


@pytest.fixture(scope="module")
def builds() -> Iterator[tuple[str, str]]:
    """Two builds from nothing: neither uses a layer of the other."""
    tags = engine.unique("first"), engine.unique("second")
    arguments = [part for name, value in engine.told().items() for part in ("--build-arg", f"{name}={value}")]
    try:
        for tag in tags:
            engine.build("devpi", tag, "--no-cache", *arguments)
        yield tags
    finally:
        docker("rmi", *tags, check=False)


def test_two_builds_of_one_commit_give_one_digest(builds: tuple[str, str]) -> None:
    """Files, settings and labels."""
    layers = [docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", tag).stdout for tag in builds]
    assert layers[0] == layers[1]
    assert engine.image_id(builds[0]) == engine.image_id(builds[1])


def test_nothing_in_a_fresh_build_is_upgradable(builds: tuple[str, str]) -> None:
    """Files of Debian packages in the image come from the versions that apt would install now.

    The image has no apt: the base image's apt, with the sources of the build, shows the versions.
    """
    records = [
        data.decode()
        for member, data in exported_files(builds[1])
        if member.name.startswith("var/lib/dpkg/status.d/") and data
    ]
    here = {
        f"{package}:{architecture}": version
        for record in records
        for package, version, architecture in [
            [
                re.findall(rf"^{name}: (\S+)$", record, re.MULTILINE)[0]
                for name in ("Package", "Version", "Architecture")
            ]
        ]
    }
    assert {"libc6", "libssl3t64", "libzstd1", "tini"} <= {name.partition(":")[0] for name in here}
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    script = "apt-get update --quiet=2 && apt-cache policy " + " ".join(name.removesuffix(":all") for name in here)
    told = docker("run", "--rm", "--user", "0", "--entrypoint", "sh", base, "-ec", script, patience=300).stdout
    candidates = re.findall(r"^(\S+):\n(?:  .*\n)*?  Candidate: (\S+)$", told, re.MULTILINE)
    newest = {name.partition(":")[0]: version for name, version in candidates}
    assert {name.partition(":")[0]: version for name, version in here.items()} == newest
