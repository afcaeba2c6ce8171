"""Bad exports: the container stays alive and reports the reason; nothing of them is served or left behind."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sidecar.core.lifecycle import now
from sidecar.features.bootstrap import import_status as imports
from sidecar.features.bootstrap.import_status import ImportState, ImportStatus
from tests.support import exported, private_mounts
from tests.support.container import Container
from tests.support.hostile import corpus

pytestmark = pytest.mark.slow

Make = Callable[..., Container]
HIDDEN = "what-no-index-may-publish"
STRICT = {"SIDECAR_IMPORT_STRICT": "true"}


@dataclass(frozen=True)
class Bad:
    """A kind of bad export: how it is put into the init directory, and what is reported."""

    put: Callable[[Path, Path], object]
    """Called with a valid export, which it may change, and the init directory."""
    reason: str
    """A part of the reason."""
    member: str | None = None
    """The member, or the end of its name; None: no member is named."""
    archive: str | None = "bad.tar.gz"
    env: dict[str, str] = field(default_factory=dict)


def put(name: str = "bad.tar.gz") -> Callable[[Path, Path], object]:
    """The export, packed unchanged."""
    return lambda export, init_dir: exported.pack(export, init_dir / name)


def content(raw: bytes, name: str = "bad.tar.gz") -> Callable[[Path, Path], object]:
    """An archive of these bytes."""
    return lambda export, init_dir: (init_dir / name).write_bytes(raw)


def tricks(name: str) -> bytes:
    """An archive of the corpus."""
    return corpus.TRICKS[name].raw()


def raw_index(name: str) -> Callable[[Path, Path], object]:
    """An archive with a `dataindex.json` of the corpus."""
    return content(corpus.export(corpus.INDEXES[name][0]) + corpus.ZEROS, "bad.tar")


def truncated(name: str, keep: float) -> Callable[[Path, Path], object]:
    """A part of a valid archive."""

    def make(export: Path, init_dir: Path) -> None:
        archive = exported.pack(export, init_dir / name)
        archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * keep)])

    return make


def with_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Callable[[Path, Path], object]:
    """A valid archive with one more member, which no export has."""

    def make(export: Path, init_dir: Path) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, link
        with tarfile.open(exported.pack(export, init_dir / "bad.tar"), "a") as tar:
            tar.addfile(member)

    return make


def many_empty(export: Path, init_dir: Path) -> None:
    """Thousands of empty members: a few kB, compressed."""
    with tarfile.open(init_dir / "bad.tar.gz", "w:gz") as tar:
        for number in range(3000):
            tar.addfile(tarfile.TarInfo(f"empty/{number}"))


def bomb(export: Path, init_dir: Path) -> None:
    """Some kB that unpack to 80 MiB."""
    member = tarfile.TarInfo("zeros")
    member.size = 80 * 2**20
    with tarfile.open(init_dir / "bad.tar.gz", "w:gz") as tar:
        tar.addfile(member, Zeros())


class Zeros(io.RawIOBase):
    """Any number of zeros."""

    def read(self, size: int = -1, /) -> bytes:
        return bytes(size)


def index(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, Path], object]:
    """A valid export except for its `dataindex.json`."""

    def make(export: Path, init_dir: Path) -> None:
        data = exported.load(export)
        change(data)
        exported.save(export, data)
        exported.pack(export, init_dir / "bad.tar.gz")

    return make


def first_file(**changes: Any) -> Callable[[Path, Path], object]:
    """An export whose first file has a wrong description."""
    return index(lambda data: data["indexes"]["mass/dev"]["files"][0].update(changes))


def unverified(relpath: str) -> Callable[[Path, Path], object]:
    """A file that devpi would read from anywhere, and publish, because no digest is given for it."""
    return first_file(relpath=relpath, entrymapping={"last_modified": "Sun, 22 Nov 2026 10:20:30 GMT"})


def wrong_digest(export: Path, init_dir: Path) -> None:
    """One changed byte of a file."""
    path = export / exported.load(export)["indexes"]["mass/dev"]["files"][1]["relpath"]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    exported.pack(export, init_dir / "bad.tar.gz")


def missing_file(export: Path, init_dir: Path) -> None:
    """A file that is listed but not packed."""
    (export / exported.load(export)["indexes"]["mass/dev"]["files"][1]["relpath"]).unlink()
    exported.pack(export, init_dir / "bad.tar.gz")


def link_in_directory(export: Path, init_dir: Path) -> None:
    """A directory with a link to a file of the container instead of a wheel."""
    path = export / exported.load(export)["indexes"]["mass/dev"]["files"][0]["relpath"]
    path.unlink()
    path.symlink_to("/etc/passwd")
    export.rename(init_dir / "bad")


def no_index(export: Path, init_dir: Path) -> None:
    """The export of a devpi-export that failed."""
    (export / "dataindex.json").unlink()
    exported.pack(export, init_dir / "bad.tar.gz")


def cut_index(export: Path, init_dir: Path) -> None:
    """A truncated `dataindex.json`."""
    path = export / "dataindex.json"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    exported.pack(export, init_dir / "bad.tar.gz")


def same_index(export: Path, init_dir: Path) -> None:
    """Two exports of one index."""
    exported.pack(export, init_dir / "bad.tar.gz")
    exported.pack(export, init_dir / "another.tar.gz")


FIRST = "mass/dev/mass-0000/1.0/mass_0000-1.0-py3-none-any.whl"
SECOND = "mass/dev/mass-0001/1.0/mass_0001-1.0-py3-none-any.whl"
BAD = {
    "truncated gz": Bad(truncated("bad.tar.gz", 0.6), "is truncated"),
    "PAX path": Bad(content(tricks("PAX path"), "bad.tar"), "'..'", "../escaped", "bad.tar", STRICT),
    "deep nesting": Bad(raw_index("100,000 brackets"), "nested too deeply", "dataindex.json", "bad.tar"),
    "not an archive": Bad(content(b"<html>404 Not Found</html>" * 99), "is not a tar archive"),
    "symbolic link": Bad(with_member("link", tarfile.SYMTYPE, "/etc"), "symbolic link", "link", "bad.tar"),
    "bomb": Bad(bomb, "more than 200 times"),
    "too large": Bad(
        put(),
        "unpacks to more than the available space",
        archive="bad.tar.gz",
        env={"SIDECAR_IMPORT_MAX_TOTAL_SIZE": "2K"},
    ),
    "large member": Bad(put(), "more than 100", "dataindex.json", env={"SIDECAR_IMPORT_MAX_MEMBER_SIZE": "100"}),
    "empty members": Bad(
        many_empty, "the limit of 1000 files", "empty/999", env={"SIDECAR_IMPORT_MAX_MEMBERS": "1000"}
    ),
    "no dataindex.json": Bad(no_index, "no dataindex.json"),
    "truncated JSON": Bad(cut_index, "truncated", "dataindex.json"),
    "dumpversion": Bad(index(lambda data: data.update(dumpversion="3")), "dumpversion '3'", "dataindex.json"),
    "root's hash without end": Bad(
        content(corpus.export(corpus.LEFT_OUT["a hash of root without end"][0]) + corpus.ZEROS, "bad.tar"),
        "is an argon2 hash that requires more than 128 MiB, 8 passes and 16 lanes",
        "the password hash of user 'root'",
        "bad.tar",
        STRICT,
    ),
    "wrong digest": Bad(wrong_digest, "sha256 mismatch", SECOND),
    "missing file": Bad(missing_file, "the file is missing", SECOND),
    "index type": Bad(
        index(lambda data: data["indexes"]["mass/dev"]["indexconfig"].update(type="constrained")),
        "'constrained'",
        "mass/dev",
    ),
    "relpath absolute": Bad(unverified("/proc/self/environ"), "leads out", "/proc/self/environ", env=STRICT),
    "relpath dot dot": Bad(
        unverified("../../../../../../../proc/self/environ"), "leads out of the export", "/self/environ", env=STRICT
    ),
    "relpath hidden dot dot": Bad(unverified("mass/../../x"), "leads out", "mass/../../x", env=STRICT),
    "link in a directory": Bad(link_in_directory, "is a link", FIRST, "bad"),
    "same index twice": Bad(same_index, "'mass/dev' is also in 'another.tar.gz'", "dataindex.json"),
}
"""One of each kind, end to end: `tests/exports/test_hostile_archives.py` has every trick, without a container."""


def assert_refused(container: Container) -> dict[str, Any]:
    """Assert that it is alive and not ready, and that only our own folder is left. Returns the import's error."""
    status = container.wait_phase("failed")
    assert "failed" == status["import"]["state"]
    error: dict[str, Any] = status["import"]["error"]
    assert {"archive", "member", "reason", "hint"} == set(error)
    assert error["hint"]
    assert error["reason"] in status["failure"]["reason"]
    assert str(container.home) not in json.dumps(status)
    assert HIDDEN not in json.dumps(status)
    ready = container.get("/readyz", accept="application/json")
    assert 503 == ready.status
    assert any(error["reason"] in check["reason"] for check in ready.json["checks"]), ready.json
    assert (200, 200) == (container.get("/livez").status, container.get("/startupz").status)
    assert {".sidecar"} == exported.names(container.serverdir)
    assert {"lock", "import.json"} <= exported.names(container.serverdir / ".sidecar") <= {"lock", "import.json", "tmp"}
    assert HIDDEN not in container.log
    return error


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A valid export, to be damaged."""
    return exported.write(tmp_path / "export", projects=2)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_exports_are_refused(container: Make, export: Path, bad: Bad) -> None:
    """Archive, member, reason and hint are on `/status`, the container lives and is not ready, nothing is left."""
    new = container(env={"SECRET_OF_THIS_TEST": HIDDEN} | bad.env)
    new.init_dir.mkdir()
    bad.put(export, new.init_dir)
    before = exported.digests(new.init_dir)
    error = assert_refused(new.start())
    assert bad.archive == error["archive"]
    assert bad.reason in error["reason"]
    assert (error["member"] or "").endswith(bad.member or "")
    assert (bad.member is None) == (error["member"] is None)
    assert before == exported.digests(new.init_dir)
    assert not Path("/tmp/escaped").exists()
    assert bad.reason in new.log
    assert 0 == new.stop()


def test_unreadable_init_directory(other_user: Make) -> None:
    """Another user can't read what only root may: a failed import with a hint, not an empty devpi."""
    new = other_user()
    new.init_dir.mkdir(mode=0o700)
    exported.pack(exported.write(new.home / "export"), new.init_dir / "backup.bz2")
    error = assert_refused(new.start())
    assert "init directory can't be read: Permission denied" in error["reason"]
    assert f"uid {new.user}" in error["hint"]
    assert 0 == new.stop()
    new.init_dir.chmod(0o755)
    (new.init_dir / "backup.bz2").chmod(0o600)
    error = assert_refused(new.start())
    assert "backup.bz2" == error["archive"]
    assert 0 == new.stop()
    (new.init_dir / "backup.bz2").chmod(0o644)
    new.start().wait_ready()
    assert "completed" == new.status()["import"]["state"]


def test_failing_may_end_the_container(container: Make, export: Path) -> None:
    """With SIDECAR_ON_IMPORT_FAILURE=exit the container exits with code 3 and the reason; the next one does, too."""
    new = container(env={"SIDECAR_ON_IMPORT_FAILURE": "exit"})
    new.init_dir.mkdir()
    no_index(export, new.init_dir)
    assert 3 == new.start().wait_end()
    assert "no dataindex.json" in new.log
    assert {".sidecar"} == exported.names(new.serverdir)
    assert 3 == new.start().wait_end()
    assert "not retried" in new.log


def test_the_same_archive_is_not_tried_again_another_is(container: Make, export: Path) -> None:
    """A start with a failed archive fails at once, with the same text; with a valid archive it imports that."""
    new = container()
    new.init_dir.mkdir()
    wrong_digest(export, new.init_dir)
    first = assert_refused(new.start())
    finished = new.status()["import"]["finished"]
    assert 0 == new.stop()
    assert first == assert_refused(new.start())
    status = new.status()["import"]
    assert finished == status["finished"]
    assert ["bad.tar.gz"] == [each["name"] for each in status["archives"]]
    assert "not retried" in new.log
    assert 1 == new.log.count("import: loading")
    assert 0 == new.stop()
    exported.pack(exported.write(new.home / "sound", projects=2), new.init_dir / "bad.tar.gz")
    new.start().wait_ready()
    status = new.status()["import"]
    assert ("completed", None, 2) == (status["state"], status["error"], status["files"]["done"])


def test_a_failed_import_is_forgotten_with_the_next_state(container: Make, export: Path) -> None:
    """Failed, then initialised without the archive; the start after that shows no import, nor do its metrics."""
    new = container()
    new.init_dir.mkdir()
    no_index(export, new.init_dir)
    assert_refused(new.start())
    assert 0 == new.stop()
    (new.init_dir / "bad.tar.gz").unlink()
    for _ in range(2):
        new.start().wait_ready()
        assert ("none", None) == (new.status()["import"]["state"], new.status()["import"]["error"])
        metrics = new.get("/metrics").body.decode()
        assert "devpi_sidecar_import_failed 0.0" in metrics
        assert 'devpi_sidecar_import_state{state="none"} 1.0' in metrics
        assert 0 == new.stop()
    assert not (new.serverdir / ".sidecar" / "import.json").exists()


@pytest.mark.parametrize("adopted", [False, True])
def test_an_import_that_was_not_installed_never_was(container: Make, adopted: bool) -> None:
    """Killed between its record and its installation; the next start, without archives, shows no import."""
    new = container()
    if adopted:
        assert 0 == new.start().wait_ready().stop()
        shutil.rmtree(new.serverdir / ".sidecar")
    (new.serverdir / ".sidecar").mkdir(parents=True, mode=0o700)
    record = new.serverdir / ".sidecar" / "import.json"
    imports.save(record, ImportStatus(ImportState.COMPLETED, started=now(), finished=now()), [])
    for _ in range(2):
        new.start().wait_ready()
        assert "none" == new.status()["import"]["state"]
        assert 0 == new.stop()
        assert not record.exists()


def test_a_raised_limit_is_tried(container: Make, export: Path) -> None:
    """The hint of a limit is to raise it: the next start with a higher one imports the same archive."""
    new = container(env={"SIDECAR_IMPORT_MAX_MEMBERS": "3"})
    exported.pack(export, new.init_dir / "backup.tar.gz")
    assert "SIDECAR_IMPORT_MAX_MEMBERS" in assert_refused(new.start())["hint"]
    assert 0 == new.stop()
    new.env = {}
    new.start().wait_ready()
    assert "completed" == new.status()["import"]["state"]


def test_disk_full_while_importing(container: Make, tmp_path: Path) -> None:
    """A volume that is too small: failed, with a hint, and nothing is left that fills it."""
    new = container()
    new.serverdir.mkdir()
    mount = f"mount -t tmpfs -o size=1m none {new.serverdir}"
    new.command = private_mounts.command(mount)
    export = exported.write(tmp_path / "export", projects=30)
    (export / "mass/dev/filler").write_bytes(os.urandom(2**20))
    exported.pack(export, new.init_dir / "backup.tar.gz")
    new.env = {"SIDECAR_IMPORT_MAX_TOTAL_SIZE": "1Gi"}
    new.start()
    error = new.wait_phase("failed")["import"]["error"]
    assert "disk is full" in error["reason"]
    assert "enlarge" in error["hint"]
    inside = private_mounts.inside(new.pid, new.serverdir)
    assert {".sidecar"} == exported.names(inside)
    assert not (inside / ".sidecar" / "staging").exists()
    assert (503, 200) == (new.get("/readyz").status, new.get("/livez").status)


@pytest.mark.parametrize("large", ["files", "database"])
def test_disk_full_while_devpi_loads(container: Make, tmp_path: Path, large: str) -> None:
    """A directory is not unpacked, but there is no space for the state made of it: failed, with a hint."""
    new = container()
    new.serverdir.mkdir()
    new.command = private_mounts.command(f"mount -t tmpfs -o size=300k none {new.serverdir}")
    export = exported.write(new.init_dir / "export", projects=100 if large == "files" else 1)
    if large == "database":
        data = exported.load(export)
        data["indexes"]["mass/dev"]["projects"]["mass-0000"]["1.0"]["description"] = os.urandom(2**19).hex()
        exported.save(export, data)
    new.start()
    error = new.wait_phase("failed")["import"]["error"]
    assert "while writing the new state" in error["reason"]
    assert "full" in error["reason"] or "No space left" in error["reason"]
    assert "start again" in error["hint"]
    inside = private_mounts.inside(new.pid, new.serverdir)
    assert {".sidecar"} == exported.names(inside)
    assert not (inside / ".sidecar" / "staging").exists()
    assert 503 == new.get("/readyz").status
