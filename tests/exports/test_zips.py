"""Zip archives: the same trees and limits as tar archives; broken ones are refused."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import struct
import subprocess
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.exports.sources import ImportRefused, Limits
from tests.exports.archives import SHARED, TREE, Box, contents


def packed(
    tree: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, comment: bytes = b"", *, streamed: bool = False
) -> bytes:
    """A zip as Python writes it; `streamed`: without seeking, so the sizes follow each member."""
    file = io.BytesIO()
    target = Unseekable(file) if streamed else file
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, content in tree.items():
            archive.writestr(name, content)
        archive.comment = comment
    return file.getvalue()


class Unseekable(io.RawIOBase):
    """Accepts bytes as a pipe does."""

    def __init__(self, file: io.BytesIO) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        return self._file.write(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_zip_unpacks_to_what_was_packed(box: Box, method: int, streamed: bool) -> None:
    """The files, the archive's digest, private modes; folders implied by a name count as in a tar."""
    raw = packed(TREE, method, b"a comment with PK\5\6 in it", streamed=streamed)
    unpacked = box.unpack(raw, "e.zip")
    assert TREE == contents(unpacked.root)
    assert hashlib.sha256(raw).hexdigest() == unpacked.sha256
    assert 7 == unpacked.members
    assert {0o600} == {p.stat().st_mode & 0o7777 for p in box.into.rglob("*") if p.is_file()}


def test_a_zip_of_python_s_command(box: Box, tmp_path: Path) -> None:
    """With entries for folders, as `python3 -m zipfile -c` packs them, and by Info-ZIP if it is installed."""
    for name, content in TREE.items():
        path = tmp_path / "export" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    subprocess.run(["python3", "-m", "zipfile", "-c", tmp_path / "p.zip", "export"], check=True, cwd=tmp_path)
    expected = {f"export/{name}": content for name, content in TREE.items()}
    assert expected == contents(box.unpack((tmp_path / "p.zip").read_bytes(), "p.zip").root)
    if shutil.which("zip"):
        subprocess.run(["zip", "-qr", tmp_path / "i.zip", "export"], check=True, cwd=tmp_path)
        assert expected == contents(box.unpack((tmp_path / "i.zip").read_bytes(), "i.zip").root)


def test_long_and_foreign_names(box: Box) -> None:
    """Longer than a tar header allows, non-ASCII, and with Windows' separators."""
    long = "alice/" + "/".join(["d" * 60] * 3) + "/ü\N{SNOWMAN}.txt"
    assert {long: b"abc"} == contents(box.unpack(packed({long: b"abc"}), "e.zip").root)
    raw = packed({"alice_dev_p": b"abc"}).replace(b"alice_dev_p", b"alice\\dev\\p")
    at = raw.index(b"PK\1\2")
    windows = raw[: at + 5] + b"\0" + raw[at + 6 :]
    assert {"alice/dev/p": b"abc"} == contents(box.unpack(windows, "e.zip").root)


def test_zip64(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes, offsets and counts too large for the old fields; the limit is lowered to use small ones."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    raw = packed(TREE)
    assert b"PK\6\6" in raw
    assert TREE == contents(box.unpack(raw, "e.zip").root)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("../x", "'..'"), ("/etc/x", "absolute path"), ("a/../../x", "'..'"), ("x" * 300, "too long a path")],
)
def test_names_are_judged_as_in_a_tar(box: Box, name: str, reason: str) -> None:
    """By the same reader."""
    error = box.refused(packed({name: b"abc"}), "e.zip")
    assert reason in error.reason
    assert name == error.member or len(name) > 200


def test_a_name_with_a_nul(box: Box) -> None:
    """In a tar it would end there, and so become another name."""
    raw = packed({"a_b": b"abc"}).replace(b"a_b", b"a\0b")
    assert "NUL" in box.refused(raw, "e.zip").reason


def test_a_symbolic_link(box: Box) -> None:
    """As packed by `zip --symlinks`."""
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "symbolic link" in box.refused(file.getvalue(), "e.zip").reason


def test_a_name_twice(box: Box) -> None:
    """Whichever of them is correct."""
    raw = packed({"a": b"1", "b": b"2"}).replace(b"b", b"a")
    assert "twice" in box.refused(raw, "e.zip").reason


def test_limits(box: Box) -> None:
    """The limits on members, bytes of one and of all, and the ratio also apply to a zip."""
    raw = packed({f"f{i}": bytes(20) for i in range(5)})
    assert "SIDECAR_IMPORT_MAX_MEMBERS" in box.refused(raw, "a.zip", Limits(members=4)).hint
    assert "SIDECAR_IMPORT_MAX_MEMBER_SIZE" in box.refused(raw, "b.zip", Limits(member_bytes=10)).hint
    assert "SIDECAR_IMPORT_MAX_TOTAL_SIZE" in box.refused(raw, "c.zip", Limits(total_bytes=2000)).hint
    bomb = packed({"zeros": bytes(10 * 2**20)})
    tight = Limits(ratio=200, ratio_floor_bytes=2**20)
    assert "SIDECAR_IMPORT_MAX_RATIO" in box.refused(bomb, "d.zip", tight).hint


def overlapping(count: int) -> bytes:
    """The number of members in the directory, and the bytes of one, of 1 MiB of zeros."""
    raw = packed({"0000": bytes(2**20)})
    at = raw.index(b"PK\1\2")
    end = raw.index(b"PK\5\6")
    entries = b"".join(raw[at:end].replace(b"0000", f"{number:04}".encode()) for number in range(count))
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(entries), at, 0)
    return raw[:at] + entries + tail


def test_members_that_share_their_bytes(box: Box) -> None:
    """David Fifield's bomb: the ratio refers to the bytes of the archive, however often they are read."""
    error = box.refused(overlapping(100), "e.zip", Limits(ratio=50, ratio_floor_bytes=2**20))
    assert "more than 50 times its size" in error.reason


@pytest.mark.alone
def test_a_directory_of_many_members_takes_no_memory(box: Box) -> None:
    """Python's zipfile would keep 0.5 kB for each."""
    raw = overlapping(10_000)
    (box.init / "e.zip").write_bytes(raw)
    tracemalloc.start()
    try:
        with pytest.raises(ImportRefused, match="more than"):
            box.unpack(raw, "e.zip", Limits(member_bytes=2**21, members=9_000, ratio=10**6, total_bytes=50 * 2**20))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5 * 2**20 + 2 * len(raw), "what is read ahead, and the archive itself"


def test_encrypted_and_unsupported(box: Box) -> None:
    """Each with its own hint."""
    raw = bytearray(packed(TREE))
    raw[raw.index(b"PK\1\2") + 8] |= 1
    error = box.refused(bytes(raw), "e.zip")
    assert ("is encrypted", "pack the export without a password") == (error.reason, error.hint)
    error = box.refused(packed(TREE, zipfile.ZIP_LZMA), "l.zip")
    assert "compressed by method 14" in error.reason
    raw = bytearray(packed(TREE))
    raw[raw.index(b"PK\5\6") + 4] = 1
    assert "zip -s 0" in box.refused(bytes(raw), "s.zip").hint


def test_wrong_sizes_and_checksums(box: Box) -> None:
    """The directory and the content differ."""
    raw = packed({"a": b"hello" * 100})
    at = raw.index(b"PK\1\2")
    for offset, words in ((16, "checksum"), (24, "size is not")):
        for step in (1, -1):
            (value,) = struct.unpack_from("<L", raw, at + offset)
            spoilt = bytearray(raw)
            struct.pack_into("<L", spoilt, at + offset, value + step)
            assert words in box.refused(bytes(spoilt), "e.zip").reason
    spoilt = bytearray(raw)
    struct.pack_into("<L", spoilt, at + 42, 7)
    assert "not where the directory points" in box.refused(bytes(spoilt), "e.zip").reason


def test_truncation_of_a_zip_never_succeeds(box: Box) -> None:
    """Wherever it is truncated."""
    raw = packed(TREE)
    for position in {*range(4, len(raw), max(1, len(raw) // 100)), *range(len(raw) - 25, len(raw))}:
        error = box.refused(raw[:position], "e.zip")
        assert "truncated" in error.reason


@SHARED
@given(data=st.data())
def test_a_flipped_bit_of_a_zip_never_changes_a_file(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """It is refused, or a name differs, or the content is as packed; no member is lost, nothing else is raised."""
    raw = bytearray(packed(TREE))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        unpacked = Box(tmp_path_factory.mktemp("flip")).unpack(bytes(raw), "e.zip")
    except ImportRefused:
        return
    assert sorted(TREE.values()) == sorted(contents(unpacked.root).values())


@SHARED
@given(junk=st.binary(max_size=400))
def test_junk_behind_a_zip_s_magic(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    """Refused, or an archive without members."""
    try:
        found = contents(Box(tmp_path_factory.mktemp("junk")).unpack(b"PK\3\4" + junk, "e.zip").root)
    except ImportRefused:
        return
    assert {} == found


def test_the_checksum_of_a_zip_is_its_file_s(box: Box) -> None:
    """Also if it contains bytes that belong to no member."""
    raw = packed(TREE)
    gap = os.urandom(200_000)
    at = raw.index(b"PK\1\2")
    end = raw.index(b"PK\5\6")
    tail = bytearray(raw[end:])
    struct.pack_into("<L", tail, 16, at + len(gap))
    with_gap = raw[:at] + gap + raw[at:end] + bytes(tail)
    assert hashlib.sha256(with_gap).hexdigest() == box.unpack(with_gap, "e.zip").sha256
