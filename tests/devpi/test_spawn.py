"""`sidecar.devpi.spawn`: a child that can't be started."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from sidecar.core.errors import Exit, ExitCode
from sidecar.devpi.spawn import spawn


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.EAGAIN, "--pids-limit"),
        (errno.ENOMEM, "memory limit"),
        (errno.EMFILE, "--ulimit nofile"),
        (errno.E2BIG, "environment variables"),
        (errno.EIO, "restart"),
    ],
)
def test_what_the_system_refuses(monkeypatch: pytest.MonkeyPatch, number: int, hint: str) -> None:
    """Each has its hint, and the system's text."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(Exit) as caught:
        spawn({})
    assert caught.value.code == ExitCode.EXHAUSTED
    assert os.strerror(number) in caught.value.reason
    assert hint in caught.value.hint


def test_a_python_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if a volume is mounted over it: the hint names it."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    with pytest.raises(Exit) as caught:
        spawn({})
    assert "No such file or directory" in caught.value.reason
    assert str(tmp_path / "python3") in caught.value.hint
