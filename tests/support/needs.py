"""What a test needs beyond Python. Where that is missing: a skip with the package to install, and in CI a failure."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def in_ci() -> bool:
    """Whether this is a run that must be whole."""
    return os.environ.get("CI", "").lower() not in {"", "0", "false"}


def not_tested(reason: str) -> NoReturn:
    """Skip, and say so; in CI, fail."""
    if in_ci():
        pytest.fail(f"{reason}; with CI set this is not optional")
    pytest.skip(f"NOT TESTED: {reason}")


def program(name: str, package: str | None = None) -> str:
    """The path of a program, which Debian has in `package` (default: of the program's name)."""
    if (found := shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")) is None:
        not_tested(f"there is no {name} (Debian: apt-get install {package or name})")
    return found


def compiler() -> str:
    """The path of a C compiler that has its headers."""
    return program("cc", "gcc libc6-dev")


def root(what: str) -> None:
    """The rights of root, without which `what` can't be done."""
    if os.geteuid() != 0:
        not_tested(f"only root can {what}")
