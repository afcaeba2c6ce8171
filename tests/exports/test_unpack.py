"""Archives become trees, or are refused; `tests.support.hostile` has every trick in every format."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.exports import decompression, sources
from sidecar.exports.sources import Budget, ImportRefused, Limits, Source, find
from sidecar.exports.unpack import unpack
from tests.exports.archives import SHARED, TREE, Box, Recorder, contents
from tests.support.hostile.corpus import ZEROS, extended, member, patched, record, tar

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "e.tar": bytes,
    "e.bz2": bz2.compress,
    "e.tar.bz2": bz2.compress,
    "e.tbz2": bz2.compress,
    "e.tar.gz": gzip.compress,
    "e.tgz": gzip.compress,
    "e.tar.xz": lzma.compress,
}


@pytest.mark.parametrize("name", PACKERS)
def test_unpacks_every_format(box: Box, name: str) -> None:
    """Each accepted name unpacks to the same files, with the archive's digest and private modes."""
    raw = PACKERS[name](tar({f"./{key}": value for key, value in TREE.items()}))
    unpacked = box.unpack(raw, name)
    assert TREE == contents(unpacked.root)
    assert hashlib.sha256(raw).hexdigest() == unpacked.sha256
    assert 7 == unpacked.members  # three files, four folders that their names imply
    assert {0o700} == {p.stat().st_mode & 0o7777 for p in (box.into, *box.into.rglob("*")) if p.is_dir()}
    assert {0o600} == {p.stat().st_mode & 0o7777 for p in box.into.rglob("*") if p.is_file()}


@pytest.mark.parametrize("pack", [bz2.compress, gzip.compress, lzma.compress])
def test_content_decides_not_the_name(box: Box, pack: Callable[[bytes], bytes]) -> None:
    """A .bz2 with other content is read by its content."""
    assert TREE == contents(box.unpack(pack(tar(TREE)), "backup.bz2").root)


@pytest.mark.parametrize("pack", [bz2.compress, gzip.compress, lzma.compress])
def test_multiple_streams(box: Box, pack: Callable[[bytes], bytes]) -> None:
    """Concatenated streams (pbzip2, pigz) are one archive; zeros after them are padding."""
    raw = tar(TREE)
    packed = b"".join(pack(raw[at : at + 1000]) for at in range(0, len(raw), 1000)) + bytes(64)
    unpacked = box.unpack(packed, "e.bz2")
    assert TREE == contents(unpacked.root)
    assert hashlib.sha256(packed).hexdigest() == unpacked.sha256


@pytest.mark.parametrize("tarformat", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_formats_and_long_names(box: Box, tarformat: int) -> None:
    """Long and non-ASCII names in PAX, GNU and ustar archives are supported; global headers are ignored."""
    name = "alice/" + "/".join(["d" * 60] * 3) + "/ü.txt"
    headers = {"comment": "x"} if tarformat == tarfile.PAX_FORMAT else {}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarformat, pax_headers=headers) as archive:
        info = tarfile.TarInfo(name)
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    assert {name: b"abc"} == contents(box.unpack(file.getvalue()).root)


def test_gnu_tar(box: Box, tmp_path: Path) -> None:
    """The output of the documented command is accepted."""
    for name, content in TREE.items():
        path = tmp_path / "export" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    subprocess.run(["tar", "-czf", tmp_path / "e", "-C", tmp_path / "export", "."], check=True)
    assert TREE == contents(box.unpack((tmp_path / "e").read_bytes(), "e.tgz").root)


def test_pax_size_and_path_override(box: Box) -> None:
    """The PAX header's size and path override the tar header's."""
    header = extended(b"x", record("path", "other/name") + record("size", "5"))
    raw = header + member("short", size=0) + b"12345" + bytes(507) + ZEROS
    assert {"other/name": b"12345"} == contents(box.unpack(raw).root)


def test_watcher_hears_of_progress(box: Box) -> None:
    """Compressed bytes, members and unpacked bytes grow up to the real totals."""
    raw = bz2.compress(tar({f"f{i}": os.urandom(300_000) for i in range(5)}))
    (box.init / "e.bz2").write_bytes(raw)
    (source,) = find(box.init).sources
    recorder = Recorder()
    unpacked = unpack(source, box.target / "x", Limits(), Budget(10**9), recorder, box.omissions)
    assert recorder.heard == sorted(recorder.heard)
    assert ("e.bz2", len(raw), 5, unpacked.bytes) == recorder.heard[-1]
    assert len(recorder.heard) >= 10


def test_directory_stays_where_it_is(box: Box) -> None:
    """A directory is its own tree, with the digest of its dataindex.json."""
    (box.init / "export").mkdir()
    (box.init / "export" / "dataindex.json").write_bytes(b"{}")
    (source,) = find(box.init).sources
    unpacked = unpack(source, box.target / "x", Limits(), Budget(0), Recorder(), box.omissions)
    assert (box.init / "export", hashlib.sha256(b"{}").hexdigest()) == (unpacked.root, unpacked.sha256)
    assert not (box.target / "x").exists()


# --- find


def test_find_nothing(tmp_path: Path) -> None:
    """A missing and an empty directory hold nothing."""
    assert sources.Found((), ()) == find(tmp_path / "absent") == find(tmp_path)


def test_find_sorts_and_ignores(box: Box) -> None:
    """Archives and directories are found, sorted by name; hidden names are ignored, others listed."""
    for name in ("b.tar", "a.BZ2", "notes.txt", ".hidden.tar", "run.sh"):
        (box.init / name).write_bytes(b"12345")
    for name in ("dir", "lost+found", ".snapshot"):
        (box.init / name).mkdir()
    (box.init / "dir" / "x").write_bytes(b"123")
    found = find(box.init)
    assert [("a.BZ2", 5, False), ("b.tar", 5, False), ("dir", 3, True)] == [
        (each.name, each.bytes, each.is_directory) for each in found.sources
    ]
    assert ("lost+found", "notes.txt", "run.sh") == found.ignored


@pytest.mark.alone
def test_a_folder_of_many_files_takes_no_memory(box: Box) -> None:
    """It is scanned in the sidecar, whose memory does not grow with an export."""
    for folder in range(3):
        (box.init / "dir" / str(folder)).mkdir(parents=True)
        for number in range(1000):
            (box.init / "dir" / str(folder) / str(number)).write_bytes(b"1")
    tracemalloc.start()
    try:
        (source,) = find(box.init).sources
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert source.bytes == 3000
    assert peak < 600_000, "200 bytes a file"


def test_find_in_a_configmap(box: Box) -> None:
    """Kubernetes' links into ..data are followed."""
    (box.init / "..2024").mkdir()
    (box.init / "..2024" / "e.tar").write_bytes(tar(TREE))
    (box.init / "..data").symlink_to("..2024")
    (box.init / "e.tar").symlink_to("..data/e.tar")
    found = find(box.init)
    assert (["e.tar"], ()) == ([each.name for each in found.sources], found.ignored)


@pytest.mark.parametrize("target", ["absent.tar", "e.tar"])
def test_find_refuses_a_link_that_leads_nowhere(box: Box, target: str) -> None:
    """A link to nothing or to itself is an error."""
    (box.init / "e.tar").symlink_to(target)
    with pytest.raises(ImportRefused, match="link"):
        find(box.init)


@pytest.mark.parametrize(("name", "target"), [("e.tar", "/etc/passwd"), ("e.gpg", "/absent"), ("e", "../outside.tar")])
def test_find_does_not_follow_a_link_out(box: Box, name: str, target: str) -> None:
    """By its name, or by the content it leads to, it is an archive: refused, and not ignored."""
    (box.init.parent / "outside.tar").write_bytes(tar(TREE))
    (box.init / name).symlink_to(target)
    found = find(box.init)
    assert ((), ()) == (found.sources, found.ignored)
    (refused,) = found.not_taken
    assert "a link that leads out of the init directory" in refused.reason


def test_find_ignores_other_links_out(box: Box) -> None:
    """Links to other files are ignored."""
    (box.init / "notes").symlink_to("/etc/passwd")
    (box.init / "nothing").symlink_to("/absent")
    (box.init / "folder").symlink_to("/etc")
    found = find(box.init)
    assert ((), ("folder", "notes", "nothing"), ()) == (found.sources, found.ignored, found.not_taken)


def test_find_refuses_more_than_a_thousand(box: Box) -> None:
    """So many are found; one more is refused with a hint; other files don't count."""
    for number in range(sources.MOST_SOURCES):
        (box.init / f"{number:04}.tar").touch()
    (box.init / "zzz.txt").touch()
    found = find(box.init)
    assert (sources.MOST_SOURCES, ("zzz.txt",)) == (len(found.sources), found.ignored)
    (box.init / "one-more.tar").touch()
    with pytest.raises(ImportRefused, match="more than 1000 archives and folders") as caught:
        find(box.init)
    assert "in a folder of its own" in caught.value.hint


def test_find_refuses_an_export_without_a_folder(box: Box) -> None:
    """An export mounted as the init directory itself is not silently ignored."""
    (box.init / "dataindex.json").write_bytes(b"{}")
    with pytest.raises(ImportRefused, match="folder of its own"):
        find(box.init)


@pytest.mark.parametrize(("closed", "archive"), [("init", "None"), ("init/e.tar", "e.tar"), ("init/d", "d")])
def test_find_unreadable(closed: str, archive: str) -> None:
    """Unreadable files are refused with the hint; root reads anything, so another uid tries."""
    code = (
        "import os, sys; from pathlib import Path; from sidecar.exports import sources\n"
        "os.getuid() or (os.setgroups([]), os.setgid(65534), os.setuid(65534))\n"
        "try: (error,) = sources.find(Path(sys.argv[1])).not_taken\n"
        "except sources.ImportRefused as refused: error = refused\n"
        "print(error.archive, error.reason, error.hint, sep='|')\n"
    )
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is below a folder that only root can open
        home = Path(folder)
        home.chmod(0o755)
        box = Box(home)
        (box.init / "d").mkdir()
        (box.init / "e.tar").write_bytes(tar(TREE))
        (home / closed).chmod(0)
        run = subprocess.run(
            [sys.executable, "-c", code, box.init],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": str(Path(sources.__file__).parents[2])},
        )
        (home / closed).chmod(0o700)
    name, reason, hint = run.stdout.strip().split("|")
    assert archive == name
    assert "can't be read: Permission denied" in reason
    assert "chmod" in hint


# --- broken archives


@pytest.mark.parametrize("pack", [bytes, bz2.compress, gzip.compress, lzma.compress])
def test_truncation_never_succeeds_silently(box: Box, pack: Callable[[bytes], bytes]) -> None:
    """A truncated archive is refused, or only padding was cut off."""
    raw = pack(tar(TREE))
    positions = {*range(0, len(raw), max(1, len(raw) // 150)), *range(len(raw) - 20, len(raw))}
    refused = 0
    for position in sorted(positions):
        try:
            assert TREE == contents(box.unpack(raw[:position]).root)
        except ImportRefused:
            refused += 1
    assert refused > len(positions) // 3
    assert pack is bytes or refused == len(positions)


@SHARED
@given(data=st.data(), pack=st.sampled_from([bz2.compress, gzip.compress, lzma.compress]))
def test_a_flipped_bit_never_changes_a_file(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, pack: Callable[[bytes], bytes]
) -> None:
    """A damaged compressed archive is refused, or unpacks to the original content."""
    raw = bytearray(pack(tar(TREE)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        unpacked = Box(tmp_path_factory.mktemp("flip")).unpack(bytes(raw), "e.bz2")
    except ImportRefused:
        return
    assert TREE == contents(unpacked.root)


@pytest.mark.parametrize(
    "raw",
    [
        b"hello",
        os.urandom(4096),
        bz2.compress(b"hello" * 1000),
        bz2.compress(b"x" * 512),
    ],
)
def test_not_an_archive(box: Box, raw: bytes) -> None:
    """Other content is reported as no tar archive, compressed or not."""
    assert box.refused(raw, "e.bz2").reason.startswith("is not a tar archive")


def test_empty_file(box: Box) -> None:
    """An empty file is reported as empty."""
    assert "is empty" == box.refused(b"").reason


@pytest.mark.parametrize("tail", [b"garbage", tar({"more": b"x"})])
def test_data_behind_the_end(box: Box, tail: bytes) -> None:
    """Garbage, or a second tar that would be ignored silently, is refused."""
    assert "end-of-archive" in box.refused(tar(TREE) + tail).reason


@pytest.mark.parametrize("pack", [bz2.compress, gzip.compress, lzma.compress])
def test_garbage_behind_the_stream(box: Box, pack: Callable[[bytes], bytes]) -> None:
    """So is garbage after a compressed stream."""
    assert "damaged" in box.refused(pack(tar(TREE)) + b"garbage garbage", "e.bz2").reason


def test_broken_header_in_the_middle(box: Box) -> None:
    """A header with a wrong checksum is not the end of the archive, as it is for tarfile."""
    raw = bytearray(tar(TREE))
    raw[1024] ^= 1
    assert "damaged" in box.refused(bytes(raw)).reason


def test_zstd_without_python_support(box: Box) -> None:
    """If Python doesn't support zstd, the refusal says so."""
    if decompression._zstd is not None:
        pytest.skip("this Python reads zstd")
    assert "zstd" in box.refused(b"\x28\xb5\x2f\xfd" + bytes(100), "e.tar.zst").reason


def test_refusals_can_cross_processes() -> None:
    """The exception survives pickling and quotes unprintable characters."""
    error = pickle.loads(pickle.dumps(ImportRefused("is bad", "fix it", "a.tar", "x\ny\udcff")))
    assert ("is bad", "fix it", "a.tar", r"x\ny\udcff") == (
        error.reason,
        error.hint,
        error.archive,
        error.member,
    )
    assert r"a.tar: x\ny\udcff: is bad; fix it" == str(error)


# --- hostile members


@pytest.mark.parametrize("key", ["GNU.sparse.major", "GNU.sparse.map", "GNU.sparse.size"])
def test_sparse_in_pax(box: Box, key: str) -> None:
    """Sparse files in PAX headers are refused."""
    raw = extended(b"x", record(key, "1")) + member("evil", b"1") + ZEROS
    assert "sparse" in box.refused(raw).reason


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("/etc/cron.d/x", "absolute"),
        ("../x", "'..'"),
        ("a/../../x", "'..'"),
        ("a/..", "'..'"),
        ("./", "empty"),
        ("a" * 256, "too long"),
        ("/".join(["a" * 200] * 30), "too long"),
        ("a/" * 70 + "x", "too long"),
        ("x\0y", "NUL"),
    ],
)
def test_bad_names(box: Box, name: str, word: str) -> None:
    """Names that lead out, or that no file system supports, are refused."""
    raw = extended(b"x", record("path", name)) + member("short", b"1") + ZEROS
    assert word in box.refused(raw).reason
    assert [] == list(box.into.iterdir())


def test_name_that_is_not_utf8(box: Box) -> None:
    """A name in Latin-1 is refused and quoted printably."""
    error = box.refused(patched(member("abc"), 1, b"\xe9") + ZEROS)
    assert "UTF-8" in error.reason
    assert r"a\udce9c" == error.member


@pytest.mark.parametrize(
    "names",
    [("a", "a"), ("a", "./a"), ("a", "a/b"), ("a/b", "a"), ("a", "a/"), ("a/b/c", "a/b"), ("a", "a/b/c/d")],
)
def test_same_path_twice(box: Box, names: tuple[str, str]) -> None:
    """No file is overwritten, or is both a file and a folder."""
    raw = b"".join(
        member(name, b"" if name.endswith("/") else b"1", **({"type": b"5"} if name.endswith("/") else {}))
        for name in names
    )
    assert "twice" in box.refused(raw + ZEROS).reason


@SHARED
@given(name=st.one_of(st.text(max_size=40), st.text("./a\0\\ü", max_size=12)), kind=st.sampled_from([b"0", b"5"]))
def test_no_name_escapes(tmp_path_factory: pytest.TempPathFactory, name: str, kind: bytes) -> None:
    """Whatever a member's name is, nothing appears outside of the target."""
    box = Box(tmp_path_factory.mktemp("escape"))
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, 1 if kind == b"0" else 0
    raw = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogatepass") + bytes(512 * info.size) + ZEROS
    before = {box.init, box.target, box.init / "export.tar"}
    try:
        root = box.unpack(raw).root
    except ImportRefused:
        root = box.into
    everything = set(box.init.parent.rglob("*"))
    assert before | {root} <= everything
    assert all(path.is_relative_to(root) for path in everything - before)
    assert not any(path.is_symlink() for path in everything)


# --- limits


def zeros_tar(size: int) -> Iterator[bytes]:
    """A tar with one file of zeros, as a stream."""
    yield member("zeros", size=size)
    for _ in range(size >> 20):
        yield bytes(2**20)
    yield ZEROS


@pytest.mark.alone
def test_bomb_stops_early_and_small(box: Box) -> None:
    """A few kB that unpack to GBs are refused by the ratio, quickly and without the memory."""
    codec = bz2.BZ2Compressor()
    raw = b"".join(codec.compress(piece) for piece in zeros_tar(96 * 2**20)) + codec.flush()
    assert len(raw) < 10_000
    tracemalloc.start()
    started = time.monotonic()
    error = box.refused(raw, "bomb.bz2")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "times its size" in error.reason
    assert 65 * 2**20 >= (box.into / "zeros").stat().st_size
    assert peak < 16 * 2**20
    assert time.monotonic() - started < 10


def test_bomb_behind_the_end_marker(box: Box) -> None:
    """The ratio counts padding."""
    limits = Limits(ratio_floor_bytes=2**20)
    assert "times" in box.refused(gzip.compress(tar(TREE) + bytes(20 * 2**20)), limits=limits).reason


@pytest.mark.parametrize("kind", [b"x", b"g", b"X", b"L", b"K"])
@pytest.mark.parametrize("size", [2**20 + 1, 8 * 2**30])
def test_extended_header_promises_too_much(box: Box, kind: bytes, size: int) -> None:
    """An extended header that is too large is refused before it is read."""
    assert "1 MiB" in box.refused(extended(kind, b"", size) + ZEROS).reason


@pytest.mark.parametrize("kind", [b"x", b"g", b"L"])
def test_extended_headers_add_up(box: Box, kind: bytes) -> None:
    """Many small extended headers in a row have the same limit as a large one."""
    payload = {b"x": record("comment", "y"), b"g": record("comment", "y"), b"L": b"name\0"}[kind]
    raw = gzip.compress(extended(kind, payload) * 5000 + member("a", b"1") + ZEROS)
    assert "1 MiB" in box.refused(raw, limits=Limits(ratio=10**6)).reason


@pytest.mark.parametrize("payload", [b"abc", b"5 a\n", b"0 a=\n", b"99 a=b\n", b"-1 a=b\n"])
def test_malformed_pax(box: Box, payload: bytes) -> None:
    """A malformed PAX header is refused."""
    assert "malformed" in box.refused(extended(b"x", payload) + member("a") + ZEROS).reason


@pytest.mark.parametrize("size", ["-1", "1e3", "9" * 30, ""])
def test_pax_size_is_a_number(box: Box, size: str) -> None:
    """An invalid size is refused."""
    assert "size" in box.refused(extended(b"x", record("size", size)) + member("a") + ZEROS).reason


def test_too_many_members(box: Box) -> None:
    """Thousands of empty members are refused at the limit."""
    raw = gzip.compress(b"".join(member(f"f{i}") for i in range(3000)) + ZEROS)
    error = box.refused(raw, limits=Limits(members=1000))
    assert "1000 files and folders" in error.reason
    assert 1000 == len(list(box.into.iterdir()))


def test_implied_folders_are_members(box: Box) -> None:
    """A name of many folders can't create more of them than the limit."""
    assert "files and folders" in box.refused(tar({"a/" * 50 + "x": b""}), limits=Limits(members=20)).reason


@pytest.mark.parametrize("limits", [Limits(member_bytes=1000), Limits(total_bytes=1000)])
def test_declared_size_is_refused_unread(box: Box, limits: Limits) -> None:
    """A member that is too large is refused by its header, before anything is written."""
    assert box.refused(member("big", size=2**40) + bytes(512), limits=limits).reason
    assert [] == list(box.into.iterdir())


def test_total_is_over_all_archives(box: Box) -> None:
    """The second archive gets what the first one left of the total."""
    raw = tar({"f": os.urandom(300_000)})
    for name in ("a.tar", "b.tar"):
        (box.init / name).write_bytes(raw)
    budget = Budget(500_000)
    first, second = find(box.init).sources
    unpack(first, box.target / "a", Limits(), budget, Recorder(), box.omissions)
    with pytest.raises(ImportRefused, match="all archives together") as caught:
        unpack(second, box.target / "b", Limits(), budget, Recorder(), box.omissions)
    assert "b.tar" == caught.value.archive


def test_budget_is_the_free_space(tmp_path: Path) -> None:
    """Without a limit, it is 90 % of the free space of the file system."""
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    assert Budget.of(Limits(), tmp_path).left == pytest.approx(free * 0.9, rel=0.05)
    assert Budget(7) == Budget.of(Limits(total_bytes=7), tmp_path)


def test_disk_full(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is reported as that, with the way to free space."""

    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device", "/secret/path")

    def fdopen(descriptor: int, _: str) -> Full:
        os.close(descriptor)
        return Full()

    monkeypatch.setattr(os, "fdopen", fdopen)
    error = box.refused(tar({"f": b"1"}))
    assert ("the disk is full", "f") == (error.reason, error.member)
    assert "enlarge" in error.hint


def test_vanished_archive(box: Box) -> None:
    """An archive that is removed between finding and reading is refused."""
    source = Source("e.tar", box.init / "e.tar", False, 1, 1)
    with pytest.raises(ImportRefused, match="can't be read"):
        unpack(source, box.target / "x", Limits(), Budget(10**6), Recorder(), box.omissions)
