"""Files of the init directory, by name and content: imported, unsupported, or no archive."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.exports import sources
from sidecar.exports.formats import NotTaken, judge
from sidecar.exports.sources import ImportRefused, find
from tests.support import needs
from tests.support.hostile.corpus import tar

TAR = tar({"dataindex.json": b"{}"})


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("dataindex.json", b"{}")
    return file.getvalue()


CONTENT: dict[str, bytes] = {
    "tar": TAR,
    "bz2": bz2.compress(TAR),
    "gzip": gzip.compress(TAR),
    "xz": lzma.compress(TAR),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(100),
    "zip": zipped(),
    "empty zip": b"PK\5\6" + bytes(18),
}


@pytest.mark.parametrize("name", ["backup.tar.bz2-2026-11-29", "backup", "b.tbz", "b.zip", "b.bak", "notes.txt"])
@pytest.mark.parametrize("kind", CONTENT)
def test_a_known_content_is_taken_whatever_its_name(name: str, kind: str) -> None:
    """Dates and other suffixes in the name make no difference."""
    assert judge(name, CONTENT[kind][:512]) is True


@pytest.mark.parametrize(
    "name", ["b.bz2", "b.tbz2", "b.tbz", "b.tar.bz2", "b.tar.gz", "b.TGZ", "b.tar.xz", "b.txz", "b.tar.zst", "b.zip"]
)
def test_a_usual_ending_is_taken_whatever_its_content(name: str) -> None:
    """Unpacking reports what is wrong with it."""
    assert judge(name, b"<html>404</html>") is True
    assert judge(name, b"") is True


GPG = bytes.fromhex("85020c03") + bytes(60)
NOT_TAKEN: dict[str, tuple[str, bytes, str]] = {
    "gpg": ("b.tar.bz2.gpg", GPG, "gpg --decrypt"),
    "gpg by its name alone": ("b.tar.bz2.gpg-2026-11-29", b"\xd2\xc0" * 32, "gpg --decrypt"),
    "gpg by its content": ("backup", GPG, "gpg --decrypt"),
    "gpg of a passphrase": ("backup.bz2", bytes.fromhex("8c0d04090302"), "gpg --decrypt"),
    "gpg, armored": ("b.asc", b"-----BEGIN PGP MESSAGE-----\n\nhQ", "gpg --decrypt"),
    "age": ("backup.bz2", b"age-encryption.org/v1\n-> X25519", "age --decrypt"),
    "age, armored": ("b.age", b"-----BEGIN AGE ENCRYPTED FILE-----", "age --decrypt"),
    "openssl": ("backup.bz2", b"Salted__12345678", "openssl enc -d"),
    "encrypted by its name": ("backup.bz2.enc", b"\1\2\3", "decrypted"),
    "7z": ("backup.7z", b"7z\xbc\xaf\x27\x1c\0\4", "python3 -m tarfile --create"),
    "rar": ("backup", b"Rar!\x1a\x07\1\0", "python3 -m tarfile --create"),
    "lz4": ("backup.tar.lz4", b"\x04\x22\x4d\x18", "python3 -m tarfile --create"),
    "lzma by its name": ("backup.tar.lzma", b"]\0\0\x80\0\xff", "python3 -m tarfile --create"),
    "cpio": ("backup", b"070701" + b"0" * 60, "python3 -m tarfile --create"),
    "compress": ("backup.tar.Z", b"\x1f\x9d\x90", "python3 -m tarfile --create"),
    "second part": ("backup.tar.bz2.ab", b"\1\2\3", "join the parts"),
    "numbered part": ("backup.zip.002", b"\1\2\3", "join the parts"),
    "dated, damaged": ("backup.tar.bz2-2026-11-29", b"\0" * 512, "copy a damaged one again"),
    "dated, empty": ("backup.tar.gz.1", b"", "copy a damaged one again"),
}


@pytest.mark.parametrize(("name", "head", "hint"), NOT_TAKEN.values(), ids=NOT_TAKEN)
def test_an_archive_that_is_not_taken_has_a_hint_of_its_own(name: str, head: bytes, hint: str) -> None:
    """Encrypted, of another format, or only named like an archive."""
    verdict = judge(name, head)
    assert isinstance(verdict, NotTaken)
    assert hint in verdict.hint
    assert verdict.reason.startswith("is ")


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("notes.txt", b"hello"),
        ("README.md", b"# backup.tar.bz2"),
        ("run.sh", b"#!/bin/sh\n"),
        ("empty", b""),
        ("backup.tar.bz2.sha256", b"0123  backup.tar.bz2\n"),
        ("backup.bz2.md5", b"0123"),
        ("backup.tar.gz.sig", bytes.fromhex("8902330400")),
        ("backup.tar.gz.asc", b"-----BEGIN PGP SIGNATURE-----\n"),
        ("backup.bz2.txt", b"of Sunday"),
        ("key.asc", b"-----BEGIN PGP PUBLIC KEY BLOCK-----"),
        ("SHA256SUMS", b"0123  backup.tar.bz2\n"),
        ("page.html", b"<html>"),
        ("tarball.py", b"import tarfile"),
        ("devpi.age-group.csv", b"a,b"),
        ("photo.jpg", b"\xff\xd8\xff\xe0"),
        ("zeros", bytes(512)),
    ],
)
def test_what_is_no_archive(name: str, head: bytes) -> None:
    """Checksums, signatures and notes next to archives are ignored."""
    assert judge(name, head) is False


@pytest.mark.parametrize("options", [[], ["--armor"], ["--s2k-mode", "3", "--cipher-algo", "AES256"]])
def test_what_gpg_writes(tmp_path: Path, options: list[str]) -> None:
    """A real one, under a neutral name."""
    gpg = needs.program("gpg", "gnupg")
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "in").write_bytes(TAR)
    command = [gpg, "--homedir", "home", "--batch", "--pinentry-mode", "loopback", "--passphrase", "x", *options]
    subprocess.run([*command, "--output", "backup", "--symmetric", "in"], cwd=tmp_path, check=True, capture_output=True)
    verdict = judge("backup", (tmp_path / "backup").read_bytes()[:512])
    assert isinstance(verdict, NotTaken)
    assert "OpenPGP" in verdict.reason


# --- in the init directory


def test_find_tells_what_is_not_taken(tmp_path: Path) -> None:
    """Next to supported ones: by name, with the hint and how to start without it; also with an odd name."""
    (tmp_path / "good.tar").write_bytes(TAR)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "b.tar.bz2.gpg").write_bytes(GPG)
    (tmp_path / "odd\x1b[31m.7z").write_bytes(b"7z\xbc\xaf\x27\x1c")
    found = find(tmp_path)
    assert ["good.tar"] == [each.name for each in found.sources]
    assert ("notes.txt",) == found.ignored
    assert ["b.tar.bz2.gpg", "odd\\x1b[31m.7z"] == [each.archive for each in found.not_taken]
    assert ("b.tar.bz2.gpg", "notes.txt", "odd\\x1b[31m.7z") == found.passed_over
    assert "gpg --decrypt b.tar.bz2.gpg >" in found.not_taken[0].hint
    assert all("SIDECAR_IGNORE_INIT_FILES=true" in each.hint for each in found.not_taken)


def hidden(init: Path) -> None:
    (init / ".backup.tar.bz2.gpg").write_bytes(GPG)


def folder(init: Path) -> None:
    (init / "backup.tar.bz2.gpg").mkdir()


def of_a_nas(init: Path) -> None:
    (init / "@eaDir" / "backup.zip").mkdir(parents=True)
    (init / "#recycle").mkdir()
    (init / "#recycle" / "old.zip").write_bytes(b"junk")


@pytest.mark.parametrize("make", [hidden, folder, of_a_nas])
def test_find_passes_over(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Hidden names, empty folders, and what a NAS creates in every folder."""
    make(tmp_path)
    found = find(tmp_path)
    assert ((), ()) == (found.sources, found.not_taken)


def test_find_a_pipe_named_like_an_archive(tmp_path: Path) -> None:
    """It is neither read nor ignored."""
    os.mkfifo(tmp_path / "backup.bz2")
    os.mkfifo(tmp_path / "control")
    found = find(tmp_path)
    assert (("control",), ["backup.bz2"]) == (found.ignored, [each.archive for each in found.not_taken])


def test_find_follows_links_to_what_is_not_taken(tmp_path: Path) -> None:
    """As in a ConfigMap."""
    (tmp_path / "..2024").mkdir()
    (tmp_path / "..2024" / "b.gpg").write_bytes(GPG)
    (tmp_path / "b.gpg").symlink_to("..2024/b.gpg")
    assert ["b.gpg"] == [each.archive for each in find(tmp_path).not_taken]


def test_find_in_a_file(tmp_path: Path) -> None:
    """The archive itself is mounted in place of its folder."""
    (tmp_path / "init").write_bytes(TAR)
    with pytest.raises(ImportRefused) as caught:
        find(tmp_path / "init")
    assert ("the init directory is a file", True) == (caught.value.reason, "mount a folder" in caught.value.hint)


def test_find_what_nobody_may_read() -> None:
    """It may be an archive, so it is not ignored; root reads anything, so another uid tries."""
    code = (
        "import os, sys; from pathlib import Path; from sidecar.exports import sources\n"
        "os.getuid() or (os.setgroups([]), os.setgid(65534), os.setuid(65534))\n"
        "for each in sources.find(Path(sys.argv[1])).not_taken: print(each.archive, each.reason, each.hint, sep='|')\n"
    )
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is below a folder that only root can open
        home = Path(folder)
        home.chmod(0o755)
        (home / "backup").write_bytes(TAR)
        (home / "backup").chmod(0)
        env = {"PYTHONPATH": str(Path(sources.__file__).parents[2])}
        run = subprocess.run([sys.executable, "-c", code, home], capture_output=True, text=True, check=True, env=env)
    name, reason, hint = run.stdout.strip().split("|")
    assert "backup" == name
    assert "it may be an archive: Permission denied" in reason
    assert "chmod" in hint
