"""What is optional on somebody's machine, and is not where CI is set."""

from __future__ import annotations

import os
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
