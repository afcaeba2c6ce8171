"""Requirements of tests beyond Python. A missing one is a skip with the package to install, and in CI a failure."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def in_ci() -> bool:
    """Whether this run must be complete."""
    return os.environ.get("CI", "").lower() not in {"", "0", "false"}


def not_tested(reason: str) -> NoReturn:
    """Skip with the reason; in CI, fail."""
    if in_ci():
        pytest.fail(f"{reason}; with CI set this is not optional")
    pytest.skip(f"NOT TESTED: {reason}")


def program(name: str, package: str | None = None) -> str:
    """The path of a program, which is in Debian's `package` (default: of the program's name)."""
    if (found := shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")) is None:
        not_tested(f"there is no {name} (Debian: apt-get install {package or name})")
    return found


def compiler() -> str:
    """The path of a C compiler that has its headers."""
    return program("cc", "gcc libc6-dev")


def root(what: str) -> None:
    """Require root's rights, without which `what` is impossible."""
    if os.geteuid() != 0:
        not_tested(f"only root can {what}")
