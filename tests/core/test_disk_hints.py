"""`sidecar.core.disk_hints`: the hint follows from the errno."""

from __future__ import annotations

import ast
import errno
import os
from pathlib import Path

import pytest

from sidecar.core.disk_hints import hint_to_read, hint_to_write

SIDECAR = Path(__file__).resolve().parents[2] / "sidecar"
ROOM = ("free space", "enlarge", "make room", "quota")


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        (("ENOSPC",), "free space on it"),
        (("EDQUOT",), "raise the quota"),
        (("EROFS",), "mount it read-write"),
        (("EACCES", "EPERM"), f"let uid {os.geteuid()} write to it"),
        (("ENOENT", "ENODEV", "ENXIO"), "it was removed or unmounted: mount it and start again"),
        (("ESTALE", "ENOTCONN", "EHOSTDOWN", "ETIMEDOUT"), "the network storage of it is unreachable"),
        (("EIO", "EUCLEAN"), "check the disk"),
        (("EMFILE", "ENFILE"), "limit of open files"),
        (("EINVAL",), "check it"),
    ],
)
def test_each_error_has_its_hint(codes: tuple[str, ...], said: str) -> None:
    """Only the hints for a full volume mention space."""
    for code in codes:
        number = getattr(errno, code)
        for found in (hint_to_write(OSError(number, "x"), "it"), hint_to_write(OSError(number, "x", "/a/path"), "it")):
            assert said in found, (code, found)
            assert "/a/path" not in found
            assert any(word in found for word in ROOM) == (code in ("ENOSPC", "EDQUOT")), found


def test_an_error_without_a_number() -> None:
    """Python raises such errors for some paths."""
    assert hint_to_write(OSError("odd"), "it") == "check it"


@pytest.mark.parametrize(
    ("code", "said"),
    [(errno.EACCES, "ask uid"), (errno.ENOENT, "mount it and start again"), (errno.EIO, "check the disk under it")],
)
def test_reading(code: int, said: str) -> None:
    """Without permission, the caller's own hint is used; other hints depend on the errno."""
    assert hint_to_read(OSError(code, "x"), "it", "ask uid {uid}").startswith(said)


def test_nobody_else_guesses() -> None:
    """No other text of the sidecar asks for free space."""
    texts = [
        (path.relative_to(SIDECAR), node.value)
        for path in sorted(SIDECAR.rglob("*.py"))
        if path.name != "disk_hints.py" and "openapi" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert [] == [each for each in texts if "make room" in each[1] or "free space on" in each[1]]
