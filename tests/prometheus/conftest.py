"""A real Prometheus and its promtool, as Debian packages them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy" / "prometheus"


@pytest.fixture(scope="session", autouse=True)
def prometheus() -> None:
    """Without it nothing here can be tested: says so, and fails where CI is set."""
    if missing := [name for name in ("prometheus", "promtool") if shutil.which(name) is None]:
        reason = f"there is no {' and no '.join(missing)} (Debian: apt-get install prometheus)"
        if os.environ.get("CI", "").lower() not in {"", "0", "false"}:
            pytest.fail(f"{reason}; with CI set the tests of the rules are not optional")
        pytest.skip(f"NOT TESTED: {reason}")


def promtool(*arguments: str | Path, text: bytes = b"") -> str:
    """`promtool ARGUMENTS`, which must succeed; what it said."""
    done = subprocess.run(
        ["promtool", *map(str, arguments)],
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    said = done.stdout.decode()
    assert done.returncode == 0, said
    return said
