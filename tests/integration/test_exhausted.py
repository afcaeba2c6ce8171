"""The system refuses processes, descriptors or memory at the start: code 71, what ran out, and a hint that works."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import pytest

from tests.support.container import ROOT, Container, python_of_everybody
from tests.support.needs import not_tested

pytestmark = pytest.mark.slow

NOBODYS = 54321
"""A uid without other processes: the kernel counts the processes of a uid."""
IN_THE_FORK = """
import os, resource

def take_memory_away():
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + 32 * 2**20  # argon2 wants 64 MiB
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

os.register_at_fork(after_in_child=take_memory_away)
"""
NO_FORK = """
import errno, os

def fork():
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

os.fork = fork
"""


def prlimit(*limits: str) -> tuple[str, ...]:
    """Return a command that runs another one under these limits."""
    if (found := shutil.which("prlimit")) is None:
        not_tested("prlimit (util-linux) is not installed")
    return (found, *limits)


def assert_exhausted(c: Container, *said: str) -> None:
    """Assert code 71 and these texts, no traceback, no partial state."""
    assert 71 == c.wait_end(), c.log
    assert [] == [words for words in said if words not in c.log], c.log
    assert "Traceback" not in c.log
    assert not (c.serverdir / ".sidecar/staging").exists()


def test_no_descriptors(container: Callable[..., Container]) -> None:
    """Five are too few for the child's channel. With the 1024 of the hint it starts."""
    c = container()
    plain = tuple(c.arguments[:2])
    c.command = (*prlimit("--nofile=5"), *plain)
    assert_exhausted(c.start(), "can't be started: Too many open files", "--ulimit nofile", "to 1024 or more")
    assert not c.serverdir.exists()

    c.command = (*prlimit("--nofile=1024"), *plain)
    assert 0 == c.start().wait_ready().stop()


def test_no_processes(other_user: Callable[..., Container]) -> None:
    """One process: none is left for devpi-server. Two: no thread is left. With more it starts."""
    found = python_of_everybody()
    assert found is not None
    python, _ = found
    plain = (python, str(ROOT / "entrypoint.py"))
    c = other_user(NOBODYS)
    c.command = (*prlimit("--nproc=1"), *plain)
    assert_exhausted(c.start(), "can't be started: Resource temporarily unavailable", "--pids-limit", "ulimit -u")
    assert not c.serverdir.exists()

    c.command = (*prlimit("--nproc=2"), *plain)
    assert_exhausted(c.start(), "the sidecar is out of memory or threads", "--pids-limit")

    c.command = (*prlimit("--nproc=500"), *plain)
    assert 0 == c.start().wait_ready().stop()


@pytest.mark.parametrize(
    ("code", "said", "hint"),
    [
        (
            IN_THE_FORK,
            "the initialisation failed: argon2 can't run",
            "raise the limit of memory",
        ),
        (
            NO_FORK,
            "the initialisation failed: the preparing process can't be started: Resource temporarily",
            "--pids-limit",
        ),
    ],
    ids=["memory", "process"],
)
def test_the_initialisation_gets_none(container: Callable[..., Container], code: str, said: str, hint: str) -> None:
    """argon2 can't get its 64 MiB, or the preparation no process. With more the next start continues."""
    c = container()
    site = c.home / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(code)
    c.env["PYTHONPATH"] = str(site)
    assert_exhausted(c.start(), said, hint)

    c.env["PYTHONPATH"] = os.devnull
    assert 0 == c.start().wait_ready().stop()
