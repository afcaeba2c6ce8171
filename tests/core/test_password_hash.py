"""The cost of a password check is known before the check."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher, Type, low_level
from argon2.exceptions import VerificationError, VerifyMismatchError
from devpi_server.auth import hash_password

from sidecar.core.password_hash import is_bearable, is_checkable
from sidecar.worker.passwords import is_hash_of

pytestmark = pytest.mark.filterwarnings("ignore:Accessing argon2.__version__:DeprecationWarning")  # caused by passlib
REST = "$c2FsdHNhbHQ$zL2j6VSjJKz0Sj5GL1rhtxu2dZzdrCRos/qoJ13bpBE"


def test_what_devpi_makes_is_bearable() -> None:
    """devpi's current hashes, those by the argon2-cffi of 2018, and the most expensive allowed one."""
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
    """It is not even tried: `t=4294967295` would take months."""
    assert not is_bearable(parameters + REST, None)
    assert not is_hash_of("", parameters + REST, None)


def test_a_salt_hides_nothing() -> None:
    """devpi joins salt and hash with the salt first, so argon2's prefix may be in the salt."""
    assert not is_bearable("p=1" + REST, "$argon2id$v=19$m=4194304,t=1")


@pytest.mark.parametrize(
    ("pwhash", "pwsalt"), [("0" * 64, "c2FsdA=="), ("0" * 32, None), ("hash of alice", None), ("", "x")]
)
def test_what_is_no_argon2_costs_nothing(pwhash: str, pwsalt: str | None) -> None:
    """devpi's own old hashes are allowed, and no password matches one."""
    assert is_bearable(pwhash, pwsalt)
    assert not is_hash_of("", pwhash, pwsalt)


def test_a_password_matches_its_hash() -> None:
    """Only argon2 hashes that it can decode are checkable."""
    pwhash = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("right")
    assert is_hash_of("right", pwhash, None)
    assert not is_hash_of("", pwhash, None)


CHEAP = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$zL2j6VSjJKz0Sj5GL1rhtxu2dZzdrCRos/qoJ13bpBE"


def decoded_by_argon2(pwhash: str) -> bool:
    """Whether argon2 itself decodes the hash."""
    kinds = {"$argon2i$": Type.I, "$argon2d$": Type.D, "$argon2id$": Type.ID}
    kind = kinds.get(pwhash[: pwhash.find("$", 1) + 1])
    if kind is None:
        return False
    try:
        return low_level.verify_secret(pwhash.encode(), b"", kind)
    except VerifyMismatchError:
        return True
    except VerificationError:
        return False


def variants() -> Iterator[str]:
    """The hash, truncated everywhere, with each character left out, and with others in each place."""
    for end in range(len(CHEAP) + 1):
        yield CHEAP[:end]
        yield CHEAP[end:]
        yield CHEAP[:end] + CHEAP[end + 1 :]
        for other in "0$=,/+A-_ ":
            yield CHEAP[:end] + other + CHEAP[end + 1 :]
            yield CHEAP[:end] + other + CHEAP[end:]
    for parameters in (
        *("m=8,t=0,p=1", "m=7,t=1,p=1", "m=15,t=1,p=2", "m=16,t=1,p=2", "m=08,t=1,p=1", "m=8,t=1,p=0", "m=8,t=1,p=01"),
        *("m=8,t=1", "t=1,m=8,p=1", "m=8,t=1,p=1,keyid=AAAA", "m=8,t=1,p=1,data=AAAA", "m=+8,t=1,p=1", "m=8,t=1,p=1 "),
    ):
        for version in ("", "v=16$", "v=19$", "v=0$", "v=4294967295$", "v=4294967296$", "v=$"):
            for kind in ("i", "d", "id", "ID", "x"):
                yield f"$argon2{kind}${version}{parameters}{REST}"


def test_what_devpi_can_check_is_what_argon2_can_decode() -> None:
    """Compared with argon2 itself, for thousands of damaged hashes."""
    known = {each: decoded_by_argon2(each) for each in variants()}
    assert {True, False} == set(known.values())
    assert [] == [each for each, decoded in known.items() if is_checkable(each, None) is not decoded]


@pytest.mark.parametrize(
    ("pwhash", "pwsalt"),
    [
        ("6a" * 32, "c2FsdHNhbHQ="),
        ("6a" * 32, None),
        (CHEAP, "salt"),
        (CHEAP, ""),
        (CHEAP + "\0", None),
        (CHEAP + "\n", None),
        (CHEAP.encode(), None),
        ("", None),
        (None, None),
        (7, None),
        ("$argon2id$v=19$m=8,t=1,p=16777216" + REST, None),
        ("$argon2id$v=19$m=4294967296,t=1,p=1" + REST, None),
    ],
)
def test_what_devpi_cant_check(pwhash: object, pwsalt: object) -> None:
    """Salted SHA-256 of devpi 2 and 3, an argon2 hash with a separate salt, extra text, no hash, and other types."""
    assert not is_checkable(pwhash, pwsalt)


def test_what_asks_for_too_much_could_be_checked() -> None:
    """The cost is checked separately."""
    for parameters in ("m=4194304,t=1,p=1", "m=8,t=4294967295,p=1", "m=4294967295,t=1,p=16777215"):
        assert is_checkable(f"$argon2id$v=19${parameters}{REST}", None)
        assert not is_bearable(f"$argon2id$v=19${parameters}{REST}", None)
    assert is_checkable(hash_password("x"), None)
