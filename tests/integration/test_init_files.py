"""Archives in the init directory that are not imported: no start spoils a later import of them; each hint works."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import exported, needs
from tests.support.container import Container

pytestmark = pytest.mark.slow

Make = Callable[..., Container]


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A valid export."""
    return exported.write(tmp_path / "export", projects=2)


def zipped(export: Path, target: Path) -> Path:
    """The export, as `zip -r` packs it."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(export.rglob("*")):
            archive.write(path, Path("export") / path.relative_to(export))
    return target


def assert_not_ready(c: Container, archive: str) -> dict[str, Any]:
    """Assert that it is not ready, with a reason, and not initialised. Returns the error; the container is stopped."""
    error: dict[str, Any] = c.wait_phase("failed")["import"]["error"]
    assert archive == error["archive"]
    assert 503 == c.get("/readyz").status
    assert error["reason"] in c.sidecar("status").stdout
    assert 0 == c.stop()
    assert {".sidecar"} == exported.names(c.serverdir)
    return error


def assert_imported(c: Container) -> None:
    """Start it with all files; the container is stopped."""
    status = c.start().wait_ready().status()["import"]
    assert ("completed", 2) == (status["state"], status["files"]["done"])
    assert 0 == c.stop()


@pytest.mark.parametrize("name", ["backup.zip", "backup.tar.bz2-2026-11-29", "backup.tbz", "backup"])
def test_what_has_a_known_content_is_imported(container: Make, export: Path, name: str) -> None:
    """Whatever its name."""
    c = container()
    c.init_dir.mkdir()
    if name.endswith(".zip"):
        zipped(export, c.init_dir / name)
    else:
        exported.pack(export, c.home / "backup.tar.bz2").rename(c.init_dir / name)
    assert_imported(c)


def test_an_encrypted_backup(container: Make, export: Path, tmp_path: Path) -> None:
    """Twice not ready, and the volume stays empty; decrypted by the command of the hint, it is imported."""
    c = container()
    c.init_dir.mkdir()
    backup = exported.pack(export, tmp_path / "backup.tar.bz2")
    (tmp_path / "gpg").mkdir(mode=0o700)
    gpg = [needs.program("gpg", "gnupg"), "--homedir", str(tmp_path / "gpg"), "--batch"]
    gpg += ["--pinentry-mode", "loopback", "--passphrase", "x"]
    encrypted = c.init_dir / "backup.tar.bz2.gpg"
    subprocess.run([*gpg, "--output", encrypted, "--symmetric", backup], check=True, capture_output=True)
    for _ in range(2):
        error = assert_not_ready(c.start(), "backup.tar.bz2.gpg")
        assert "is encrypted (OpenPGP)" in error["reason"]
        assert "gpg --decrypt backup.tar.bz2.gpg > decrypted.bz2" in error["hint"]
    decrypted = subprocess.run([*gpg, "--decrypt", encrypted], check=True, capture_output=True).stdout
    (c.init_dir / "decrypted.bz2").write_bytes(decrypted)
    encrypted.unlink()
    assert_imported(c)


def test_an_archive_that_is_not_taken_goes(container: Make) -> None:
    """Once removed, the start initialises as without it."""
    c = container()
    c.init_dir.mkdir()
    (c.init_dir / "backup.7z").write_bytes(b"7z\xbc\xaf\x27\x1c\0\4")
    error = assert_not_ready(c.start(), "backup.7z")
    assert "7z" in error["reason"]
    (c.init_dir / "backup.7z").unlink()
    assert "none" == c.start().wait_ready().status()["import"]["state"]


def test_archives_that_are_not_taken_are_ignored_on_request(container: Make, export: Path) -> None:
    """SIDECAR_IGNORE_INIT_FILES=true: exports are imported, the rest is listed as ignored."""
    c = container()
    exported.pack(export, c.init_dir / "good.tar")
    (c.init_dir / "other.7z").write_bytes(b"7z\xbc\xaf\x27\x1c\0\4")
    (c.init_dir / "parts.zip.002").write_bytes(b"\1\2\3")
    error = assert_not_ready(c.start(), "other.7z")
    assert "SIDECAR_IGNORE_INIT_FILES=true" in error["hint"]
    assert "parts.zip.002" in c.log
    c.env["SIDECAR_IGNORE_INIT_FILES"] = "true"
    c.start().wait_ready()
    status = c.status()["import"]
    assert ("completed", ["other.7z", "parts.zip.002"]) == (status["state"], status["ignored"])


def test_an_archive_that_is_not_taken_may_end_the_container(container: Make) -> None:
    """Code 3, as any import that fails, with SIDECAR_ON_IMPORT_FAILURE=exit."""
    c = container(env={"SIDECAR_ON_IMPORT_FAILURE": "exit"})
    c.init_dir.mkdir()
    (c.init_dir / "backup.7z").write_bytes(b"7z\xbc\xaf\x27\x1c\0\4")
    assert 3 == c.start().wait_end()
    assert "backup.7z: is a 7z archive" in c.log


def test_a_replica_with_an_archive_that_is_not_taken(container: Make) -> None:
    """As with an importable one: a replica imports nothing, so repacking it would not help."""
    c = container(flags=("--port", "0", "--primary-url", "http://127.0.0.1:9", "--role", "replica"))
    c.init_dir.mkdir()
    (c.init_dir / "backup.7z").write_bytes(b"7z\xbc\xaf\x27\x1c\0\4")
    assert 2 == c.start().wait_end()
    assert "a replica gets its state from its primary" in c.log
