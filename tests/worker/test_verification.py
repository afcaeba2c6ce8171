"""`sidecar.worker.verification`: a real argon2 matches, doesn't match, or can't run; these are never mixed up."""

from __future__ import annotations

import subprocess
import sys

import pytest
from argon2 import PasswordHasher
from argon2.low_level import Type

from sidecar.worker import verification
from sidecar.worker.verification import CannotTell, joined, matches

KINDS = {"argon2i": Type.I, "argon2d": Type.D, "argon2id": Type.ID}
HASH = PasswordHasher(time_cost=1, memory_cost=64, parallelism=2).hash("right", salt=b"always this salt")
"""The same in each process of a test run."""
HEAD, SALT, DIGEST = HASH.rsplit("$", 2)


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds(kind: str) -> None:
    """The right password, and no other, with any characters."""
    value = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1, type=KINDS[kind]).hash("pä:ss\0word")
    assert value.startswith(f"${kind}$")
    assert matches("pä:ss\0word", value)
    for wrong in ("", "pä:ss", "pä:ss\0wor", "x" * 100_000, "\udcff"):
        assert not matches(wrong, value)


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "$",
            "$argon2id$",
            "$argon2x$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$zL2j6VSjJKz0Sj5GL1rhtw",
            "hash of alice",
            "0" * 64,
        ),
        *(HASH[:length] for length in range(len(HEAD) + 1, len(HASH))),
        *(f"{HEAD}${SALT}${DIGEST}=", f"{HEAD}${SALT}${DIGEST}\n", f"{HEAD}$ä${DIGEST}", f"{HEAD}$c2FsdA${DIGEST}"),
        HASH.replace("m=64", "m=8"),
        joined("0" * 64, "c2FsdA=="),
        joined(HASH, "salt"),
    ],
)
def test_an_unusable_hash_matches_nothing(value: str) -> None:
    """Truncated anywhere, of another program, or of devpi-server 3: not a failure, with any password."""
    assert not matches("right", value)
    assert not matches("", value)


@pytest.mark.parametrize("code", ["MEMORY_ALLOCATION_ERROR", "THREAD_FAIL", "MISSING_ARGS"])
def test_any_other_code_says_nothing_of_the_password(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected code is not a verdict."""

    class Lib:
        ARGON2_OK, ARGON2_VERIFY_MISMATCH = verification._LIB.ARGON2_OK, verification._LIB.ARGON2_VERIFY_MISMATCH

        @staticmethod
        def argon2_verify(*_: object) -> int:
            return int(getattr(library, f"ARGON2_{code}"))

    library = verification._LIB
    monkeypatch.setattr(verification, "_LIB", Lib)
    with pytest.raises(CannotTell) as told:
        matches("right", HASH)
    assert "$argon2" not in str(told.value)


_LIMITED = """
import os, re, resource, sys
from argon2 import PasswordHasher
from devpi_server import auth
from sidecar.worker import verification
from sidecar.worker.patches import hashing
hasher = PasswordHasher()
value, kind = hasher.hash("right"), sys.argv[1]
hashing.one_at_a_time()
if kind == "memory":
    used = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**25, resource.RLIM_INFINITY))
else:
    if os.geteuid() == 0:  # whom the limit of processes doesn't hold
        os.setresgid(12345, 12345, 12345)
        os.setresuid(12345, 12345, 12345)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
for ask in (
    lambda: verification.matches("right", value),
    lambda: verification.matches("wrong", value),
    lambda: auth.verify_and_update_password_hash("right", value),
    lambda: auth.hash_password("new"),
):
    try:
        print(ask())
    except verification.CannotTell as error:
        print("cannot tell:", error)
print(verification.matches("right", value[:-60]))
"""


@pytest.mark.parametrize(("limit", "reason"), [("memory", "Memory allocation error"), ("threads", "Threading failure")])
def test_an_argon2_that_cannot_run(limit: str, reason: str) -> None:
    """Under real limits of memory and threads: for a check, for devpi's own, for a new hash."""
    command = [sys.executable, "-W", "ignore", "-c", _LIMITED, limit]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"cannot tell: {reason}"] * 4 + ["False"], done
