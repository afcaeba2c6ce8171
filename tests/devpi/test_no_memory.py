"""argon2 without memory: nobody knows then whether a password is right, and nothing is made of a guess."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.integration.container import PATIENCE, ROOT

SCRIPT = """
import resource, sys, warnings
warnings.simplefilter("ignore")
from devpi_server import auth
from sidecar.devpi import preparation, stretching

stretching.one_at_a_time()
pwhash = auth.hash_password("right")
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 16 * 2**20  # argon2 wants 64 MiB
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    print(eval(sys.argv[1]))
except MemoryError as error:
    print("MemoryError:", error)
"""


@pytest.mark.parametrize(
    "call",
    [
        "preparation.is_hash_of('right', pwhash, None)",
        "preparation.is_hash_of_empty(pwhash, None)",
        "preparation.hash_of('right')",
        "auth.hash_password('right')",
        "auth.verify_and_update_password_hash('right', pwhash)",
    ],
)
def test_it_is_no_verdict(call: str) -> None:
    """passlib says `malformed argon2 hash`, which would count as another password: a claim would be lost for it."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, call], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (0, "MemoryError: Memory allocation error\n"), done.stderr
