"""Exports whose files have several names: from a store that keeps equal files once, packed as docs/import.md says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import exported, needs
from tests.support.container import Container, cleared_away
from tests.support.exported import PASSWORDS, Described, Uploader

pytestmark = pytest.mark.slow

Make = Callable[..., Container]
STORAGE = ("--storage", "sqlite:fsbackend=hash_hl")
OFFLINE = ("--host", "127.0.0.1", "--port", "0", "--offline-mode")
FLAGS = (*OFFLINE, "--no-root-pypi")
RECORDER = """
import os, sys
_log = os.open(os.environ["OPENED_TO_WRITE"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def _hook(event, arguments):
    if event not in ("open", "os.truncate") or not isinstance(arguments[0], (str, bytes)):
        return
    path = os.fsdecode(arguments[0])
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND):
        return
    if "/+files/" in path or "/+h/" in path:
        os.write(_log, f"{'in place' if os.path.lexists(path) else 'new'} {path!r}\\n".encode())
sys.addaudithook(_hook)
"""
"""A `sitecustomize` that records which of devpi-server's files are opened for writing."""


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`devpi-export --hard-links` of a real devpi-server's `hash_hl` store, in which equal files are one."""
    home = tmp_path_factory.mktemp("linked")
    origin = Container(home / "origin", flags=(*OFFLINE, *STORAGE), env={"DEVPI_PASSWORD": PASSWORDS["root"]})
    with cleared_away(origin.start()):
        origin.wait_ready()
        exported.fill(origin.devpi)
        Uploader(origin.devpi, "bob", PASSWORDS["bob"]).json(
            "POST", "/alice/dev", {"name": "hello-world", "version": "1.1", "targetindex": "bob/prod"}
        )
        assert 0 == origin.stop()
    export = exported.export(origin.serverdir, home / "export", *STORAGE, "--hard-links")
    copies = [path for path in export.rglob("*.whl") if path.name == "hello_world-1.0-py3-none-any.whl"]
    assert 2 == len(copies)
    assert 1 == len({path.stat().st_ino for path in copies})
    return export


def by_tar(export: Path, archive: Path) -> None:
    """Pack it as an operator who knows tar."""
    needs.program("bzip2")  # tar's own term
    subprocess.run([needs.program("tar"), "-cjf", archive, "-C", export, "."], check=True)


def by_python(export: Path, archive: Path) -> None:
    """Pack it as docs/import.md says."""
    command = [sys.executable, "-m", "tarfile", "--create", archive, export.name]
    subprocess.run(command, check=True, cwd=export.parent)


@pytest.mark.parametrize("pack", [by_tar, by_python])
@pytest.mark.parametrize("storage", [(), STORAGE], ids=["sqlite", "hash_hl"])
def test_an_export_with_hard_links(
    container: Make, linked: Path, tmp_path: Path, pack: Callable[[Path, Path], None], storage: tuple[str, ...]
) -> None:
    """It is imported, and an export of the result equals it: no file is missing or differs."""
    new = container(flags=(*FLAGS, *storage))
    new.init_dir.mkdir()
    pack(linked, new.init_dir / "backup.bz2")
    new.start().wait_ready()
    assert 200 == new.login("alice", PASSWORDS["alice"])
    assert 0 == new.stop()
    expected, again = Described.of(linked), Described.of(exported.export(new.serverdir, tmp_path / "again", *storage))
    assert expected.files == again.files
    assert expected.data == again.data


@pytest.mark.parametrize("storage", [(), STORAGE], ids=["sqlite", "hash_hl"])
def test_devpi_writes_no_file_in_place(container: Make, linked: Path, tmp_path: Path, storage: tuple[str, ...]) -> None:
    """Not in an import of linked files, nor in uploads over them: that would change the file's other names."""
    (tmp_path / "recorder").mkdir()
    (tmp_path / "recorder" / "sitecustomize.py").write_text(RECORDER)
    record = tmp_path / "opened"
    new = container(
        flags=(*FLAGS, *storage), env={"PYTHONPATH": str(tmp_path / "recorder"), "OPENED_TO_WRITE": str(record)}
    )
    new.init_dir.mkdir()
    by_tar(linked, new.init_dir / "backup.bz2")
    new.start().wait_ready()
    alice, bob = (Uploader(new.devpi, user, PASSWORDS[user]) for user in ("alice", "bob"))
    upload = {"name": "hello-world", "version": "1.0"}
    for number in range(2):  # the same content twice is an error in hash_hl
        name, content = exported.wheel("hello-world", "1.0", f"# another one, {number}")
        documents = exported.zipped({"index.html": f"new {number}"})
        alice.post("alice/dev", "file_upload", (name, content), filetype="bdist_wheel", pyversion="py3", **upload)
        alice.post("alice/dev", "doc_upload", ("docs.zip", documents), **upload)
    bob.json("POST", "/alice/dev", {"name": "hello-world", "version": "2.0rc1", "targetindex": "bob/prod"})
    alice.json("DELETE", "/alice/dev/hello-world/1.1", {})
    assert 0 == new.stop()
    opened = record.read_text().splitlines()
    assert any(line.startswith("new ") for line in opened), "nothing was recorded"
    assert [line for line in opened if line.startswith("in place ")] == []
    again = exported.export(new.serverdir, tmp_path / "again", *storage)
    before, after = Described.of(linked).files, Described.of(again).files
    kept = {path: digest for path, digest in before.items() if path.startswith(("bob/", "alice/base/"))}
    assert kept.items() <= after.items()
    assert before["alice/dev/hello-world/1.0/" + name] != after["alice/dev/hello-world/1.0/" + name]
