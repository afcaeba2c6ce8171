"""What a check of a password may cost is known before it is made."""

from __future__ import annotations

import pytest
from argon2 import PasswordHasher
from devpi_server.auth import hash_password

from sidecar.devpi.preparation import is_hash_of
from sidecar.password_hash import is_bearable

pytestmark = pytest.mark.filterwarnings("ignore:Accessing argon2.__version__:DeprecationWarning")  # passlib does
REST = "$c2FsdHNhbHQ$zL2j6VSjJKz0Sj5GL1rhtxu2dZzdrCRos/qoJ13bpBE"


def test_what_devpi_makes_is_bearable() -> None:
    """Its hashes of today, those by the argon2-cffi of 2018, and the hardest that is let through."""
    assert is_bearable(hash_password("x"), None)
    for parameters in ("$argon2i$v=19$m=102400,t=2,p=8", "$argon2i$m=512,t=2,p=2", "$argon2id$v=19$m=131072,t=8,p=16"):
        assert is_bearable(parameters + REST, None), parameters


@pytest.mark.parametrize(
    "parameters",
    [
        "$argon2id$v=19$m=131073,t=3,p=4",
        "$argon2d$v=19$m=4194304,t=1,p=1",
        "$argon2id$m=8,t=4294967295,p=1",
        f"$argon2id$v=19$m=8,t={'9' * 5000},p=1",
        "$argon2id$v=19$m=8,t=1,p=17",
        "$argon2id$v=19$m=65536,t=3,p=4,keyid=AAAA",
        "$argon2id$v=19$m=65536,t=3",
        "$argon2",
    ],
)
def test_too_much_or_damaged_is_not(parameters: str) -> None:
    """Nor is it tried: `t=4294967295` would take months."""
    assert not is_bearable(parameters + REST, None)
    assert not is_hash_of("", parameters + REST, None)


def test_a_salt_hides_nothing() -> None:
    """devpi puts the salt before the hash: argon2's start may hide in it."""
    assert not is_bearable("p=1" + REST, "$argon2id$v=19$m=4194304,t=1")


@pytest.mark.parametrize(
    ("pwhash", "pwsalt"), [("0" * 64, "c2FsdA=="), ("0" * 32, None), ("hash of alice", None), ("", "x")]
)
def test_what_is_no_argon2_costs_nothing(pwhash: str, pwsalt: str | None) -> None:
    """devpi's own old hashes stay what they are, and no password matches one."""
    assert is_bearable(pwhash, pwsalt)
    assert not is_hash_of("", pwhash, pwsalt)


def test_a_password_matches_its_hash() -> None:
    """And no other does."""
    pwhash = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("right")
    assert is_hash_of("right", pwhash, None)
    assert not is_hash_of("", pwhash, None)
