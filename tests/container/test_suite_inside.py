"""The project's own tests, run inside the image's root file system: what was trimmed away is not missed."""

from __future__ import annotations

import re

import pytest

from tests.container import engine
from tests.container.engine import docker

pytestmark = pytest.mark.container

PATIENCE = 1800.0
"""Seconds for all of it."""
TWO_FILES_AT_A_TIME = ("--numprocesses", "2", "--dist", "loadfile")
NOT_OF_THE_IMAGE = (
    *("-m", "not alone"),  # they measure, and other tests run beside the container
    "--ignore=tests/chaos",  # it needs a C compiler
    # of documents, the set-up, the cluster, the browser, the bench
    *("--ignore=tests/container", "--ignore=tests/kubernetes", "--ignore=tests/prometheus", "--ignore=tests/browser"),
    "--ignore=tests/test_docs.py",
    *("--ignore=tests/test_layers.py", "--ignore=tests/test_packaging.py", "--ignore=tests/test_bench.py"),
    # they call pip, which isn't there; test_story.py tells the same story with the machine's own
    *("--ignore=tests/integration/test_versions.py", "--ignore=tests/integration/test_end_to_end.py"),
    # /tmp is memory there, and there is no load balancer
    *("--ignore=tests/integration/test_drain_transfers.py", "--ignore=tests/integration/test_rolling_restarts.py"),
    # about crowds, memory, broken disks and clocks, minutes of them: our own code and the kernel, as outside
    *("--ignore=tests/integration/test_admission.py", "--ignore=tests/integration/test_after_kill.py"),
    *("--ignore=tests/integration/test_crowds.py", "--ignore=tests/integration/test_faults.py"),
    *("--ignore=tests/integration/test_memory_limit.py", "--ignore=tests/integration/test_streams.py"),
    # pairs of servers, every kind of export and lost writes: as outside, and minutes of them
    *("--ignore=tests/integration/test_replicas.py", "--ignore=tests/integration/test_export_kinds.py"),
    "--ignore=tests/integration/test_lost_writes.py",
    # they judge a document, with a library in Rust that wants librt
    *("--ignore=tests/web/test_openapi.py", "--ignore=tests/web/test_schemathesis.py"),
    # it kills a devpi-init that passes by our lock; in the image none does
    "--deselect=tests/integration/test_bad_serverdir.py::test_a_killed_devpi_init_is_not_served",
)


def run(image: str, *arguments: str) -> int:
    """pytest in a container, as the image's user and without a network; how many tests have passed, all being well."""
    name = engine.unique("suite")
    command = ("run", "--name", name, "--label", engine.LABEL, "--network", "none", "--tmpfs", "/tmp:exec,mode=1777")
    try:
        how = ("-q", "--tb=short", *TWO_FILES_AT_A_TIME, *NOT_OF_THE_IMAGE)
        done = docker(*command, image, *how, *arguments, patience=PATIENCE, check=False)
    finally:
        docker("rm", "--force", "--volumes", name, check=False)
    print(done.stdout[-2000:])
    assert 0 == done.returncode, done.stdout[-8000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    return int(passed[1])


def test_the_suite_passes_inside(test_image: str) -> None:
    """Unit and integration tests."""
    assert 1000 < run(test_image, "tests")
