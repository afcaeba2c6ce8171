"""Some of the project's own tests, run inside the image's root file system: nothing that was trimmed is missed."""

from __future__ import annotations

import re

import pytest

from tests.support import engine
from tests.support.engine import ROOT, docker

pytestmark = pytest.mark.image

PATIENCE = 1800.0
"""Seconds for all of it."""
TWO_FILES_AT_A_TIME = ("--numprocesses", "2", "--dist", "loadfile")
WHAT_ONLY_THE_IMAGE_CAN_BREAK = (
    # what our modules import of the trimmed standard library and packages, on the image's own Python
    *("tests/devpi", "tests/worker", "tests/web"),
    *(f"tests/exports/test_{name}.py" for name in ("merge", "unpack", "zips")),
    *("tests/cli/test_commands.py", "tests/core/test_logging.py"),
    # libraries in C, and TLS; the other tests of the image cover a running devpi-server
    "tests/integration/test_tls.py",
)
NOT_THERE = (
    *("-m", "not alone and not slow"),
    # a real child for each case, made-up input, thousands of connections, every advice: the same as outside, but slow
    *(f"--ignore=tests/devpi/test_{name}.py" for name in ("process", "protocol")),
    *(f"--ignore=tests/web/test_{name}.py" for name in ("advice", "events", "fuzz")),
    "--ignore=tests/worker/patches/test_waitress.py",
    # the list of foreign names: each start verifies it, and its documents are not in the image
    "--ignore=tests/worker/patches/test_table.py",
    # they check a document, with a library in Rust that needs librt
    *("--ignore=tests/web/test_openapi.py", "--ignore=tests/web/test_schemathesis.py"),
)


def run(image: str, *arguments: str) -> int:
    """Run pytest in a container, as the image's user and without a network; return how many tests passed."""
    name = engine.unique("suite")
    command = ("run", "--name", name, "--label", engine.LABEL, "--network", "none", "--tmpfs", "/tmp:exec,mode=1777")
    try:
        how = ("-q", "--tb=short", *TWO_FILES_AT_A_TIME, *NOT_THERE)
        done = docker(*command, image, *how, *arguments, patience=PATIENCE, check=False)
    finally:
        docker("rm", "--force", "--volumes", name, check=False)
    print(done.stdout[-2000:])
    assert 0 == done.returncode, done.stdout[-8000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    return int(passed[1])


def test_the_suite_passes_inside(test_image: str) -> None:
    """Unit tests, and those tests with a real devpi-server that need most of the image."""
    named = [path.relative_to(ROOT) for pattern in WHAT_ONLY_THE_IMAGE_CAN_BREAK for path in ROOT.glob(pattern)]
    assert len(named) >= len(WHAT_ONLY_THE_IMAGE_CAN_BREAK)
    assert 700 < run(test_image, *map(str, named))
