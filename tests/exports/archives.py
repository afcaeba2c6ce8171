"""Helpers that put archives into an init directory and unpack them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from sidecar.exports.sources import Budget, ImportRefused, Limits, Omissions, Unpacked, find
from sidecar.exports.unpack import unpack

TREE = {"dataindex.json": b"{}", "alice/dev/p/1.0/p-1.0.tar.gz": os.urandom(3000), "alice/empty": b""}
SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Recorder:
    """A watcher that records its calls."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int, int, int]] = []

    def unpacking(self, source: str, compressed_bytes: int, members: int, unpacked_bytes: int) -> None:
        self.heard.append((source, compressed_bytes, members, unpacked_bytes))


def contents(root: Path) -> dict[str, bytes]:
    """All files below a folder, by relative name."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


class Box:
    """An init directory, and a target outside of it."""

    def __init__(self, path: Path) -> None:
        self.init = path / "init"
        self.target = path / "target"
        self.init.mkdir()
        self.target.mkdir()
        self.count = 0
        self.omissions = Omissions(strict=True)

    def unpack(self, raw: bytes, name: str = "export.tar", limits: Limits | None = None) -> Unpacked:
        """Put the bytes into the init directory, find them there, and unpack them."""
        (self.init / name).write_bytes(raw)
        (source,) = [each for each in find(self.init).sources if each.name == name]
        self.count += 1
        self.into = self.target / str(self.count)
        limits = limits or Limits()
        return unpack(source, self.into, limits, Budget.of(limits, self.target), Recorder(), self.omissions)

    def refused(self, raw: bytes, name: str = "export.tar", limits: Limits | None = None) -> ImportRefused:
        """The refusal of these bytes; it contains the archive, a hint, and no path on disk."""
        with pytest.raises(ImportRefused) as caught:
            self.unpack(raw, name, limits)
        error = caught.value
        assert name == error.archive
        assert error.hint
        assert str(self.target.parent) not in f"{error} {error.reason} {error.hint} {error.member}"
        assert "\n" not in str(error)
        return error
