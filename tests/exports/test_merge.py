"""Trees become one export: a real one from devpi-export, and all errors of hand-made ones."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from devpi_server.model import is_valid_name
from hypothesis import given
from hypothesis import strategies as st

from sidecar.exports.dataindex import Checked, normalized
from sidecar.exports.index_json import parse
from sidecar.exports.merge import Export, Totals, load, set_root_hash
from sidecar.exports.sources import Budget, ImportRefused, Limits, Omissions, Source, Unpacked, find
from sidecar.exports.unpack import unpack
from sidecar.worker.passwords import is_hash_of, is_hash_of_empty

FILE = "alice/dev/pkg/1.0/pkg-1.0.tar.gz"
DOC = "alice/dev/pkg-1.0.doc.zip"
CONTENT = b"no real sdist"
FILES = {FILE: CONTENT, DOC: b"PK\5\6" + bytes(18)}
MAPPING = {
    "hashes": {"sha256": hashlib.sha256(CONTENT).hexdigest()},
    "last_modified": "Mon, 01 Jan 2024 00:00:00 GMT",
}
RELEASE = {
    "type": "releasefile",
    "projectname": "pkg",
    "version": "1.0",
    "relpath": FILE,
    "entrymapping": MAPPING,
}
DATA: dict[str, Any] = {
    "dumpversion": "2",
    "users": {
        "root": {"username": "root", "pwhash": "hash of root", "created": "2024-01-01T00:00:00Z"},
        "alice": {"username": "alice", "pwhash": "hash of alice", "email": "a@example.org"},
    },
    "indexes": {
        "root/pypi": {"indexconfig": {"type": "mirror", "mirror_url": "https://pypi.org/simple/", "volatile": False}},
        "alice/dev": {
            "indexconfig": {"type": "stage", "bases": ["root/pypi"], "volatile": True},
            "projects": {"pkg": {"1.0": {"name": "pkg", "version": "1.0", "description": "two\nlines"}}},
            "files": [RELEASE, {"type": "doczip", "projectname": "pkg", "version": "1.0", "relpath": DOC}],
        },
    },
}
Change = Callable[[dict[str, Any]], object]


class Quiet:
    """A watcher that ignores its calls."""

    def unpacking(self, source: str, compressed_bytes: int, members: int, unpacked_bytes: int) -> None: ...


def edited(change: Change) -> dict[str, Any]:
    """The sound data, with something changed."""
    data = copy.deepcopy(DATA)
    change(data)
    return data


def write(root: Path, data: object = None, files: dict[str, bytes] = FILES) -> Path:
    """An export as a directory; data is JSON, raw bytes, or None for a part without a dataindex.json."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    root.mkdir(parents=True, exist_ok=True)
    if data is not None:
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        (root / "dataindex.json").write_bytes(raw)
    return root


def tree(root: Path) -> Unpacked:
    """A directory as a tree."""
    return Unpacked(Source(root.name, root, True, 0, 0), root, "", 0, 0)


def loaded(*roots: Path, limits: Limits | None = None, omissions: Omissions | None = None, **options: bool) -> Export:
    """The export in these directories, without omissions, unless `omissions` is passed."""
    omissions = Omissions(strict=True) if omissions is None else omissions
    return load([tree(root) for root in roots], limits or Limits(), omissions, **options)


def refused(*roots: Path, limits: Limits | None = None, **options: bool) -> ImportRefused:
    """The refusal; it has a hint, and no path on disk."""
    with pytest.raises(ImportRefused) as caught:
        loaded(*roots, limits=limits, **options)
    assert caught.value.hint
    assert str(roots[0].parent) not in str(caught.value)
    return caught.value


# --- a real export


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """devpi-export's output of a server with our data: devpi imports it first."""
    home = tmp_path_factory.mktemp("real")
    write(home / "made", DATA)
    scripts = Path(sys.executable).parent
    commands: tuple[list[Path | str], ...] = (
        [scripts / "devpi-import", "--serverdir", home / "server", "--no-events", home / "made"],
        [scripts / "devpi-export", "--serverdir", home / "server", home / "export"],
    )
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)
    return home / "export"


@pytest.fixture
def init(tmp_path: Path) -> Path:
    """An empty init directory."""
    (tmp_path / "init").mkdir()
    return tmp_path / "init"


def pack(archive: Path, root: Path, prefix: str, keep: Callable[[str], bool] = lambda name: True) -> None:
    """Pack the files of a directory whose relative name is to be kept."""
    with tarfile.open(archive, "w:bz2") as packed:
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if path.is_file() and keep(name):
                packed.addfile(packed.gettarinfo(path, prefix + name), io.BytesIO(path.read_bytes()))


def imported(init: Path) -> Export:
    """Everything in the init directory, unpacked next to it and loaded."""
    target = init.parent / "target"
    target.mkdir()
    limits = Limits()
    budget = Budget.of(limits, target)
    strictly = Omissions(strict=True)
    trees = [
        unpack(each, target / str(n), limits, budget, Quiet(), strictly) for n, each in enumerate(find(init).sources)
    ]
    return load(trees, limits, strictly)


def check_real(export: Export, archive: str) -> None:
    """The real export's data and files are complete."""
    size = sum(map(len, FILES.values()))
    assert Totals(users=2, indexes=2, projects=1, files=2, bytes=size) == export.totals
    assert FILES == {relpath: path.read_bytes() for relpath, path in export.files.items()}
    assert {relpath: len(content) for relpath, content in FILES.items()} == export.sizes
    assert {"root/pypi": archive, "alice/dev": archive} == export.archive_of
    assert "hash of alice" == export.data["users"]["alice"]["pwhash"]
    assert export.has_root_pypi


def test_real_directory(real: Path, init: Path) -> None:
    """A plain directory, as devpi-export writes it."""
    (init / "e").mkdir()
    subprocess.run(["cp", "-r", f"{real}/.", init / "e"], check=True)
    check_real(imported(init), "e")


@pytest.mark.parametrize("prefix", ["", "./", "backup/", "some/where/else/"])
def test_real_archive(real: Path, init: Path, prefix: str) -> None:
    """An archive with the export at its root or in a folder."""
    pack(init / "e.bz2", real, prefix)
    check_real(imported(init), "e.bz2")


@pytest.mark.parametrize("prefixes", [("", ""), ("backup/", "backup/"), ("backup/", "")])
def test_real_split_in_two(real: Path, init: Path, prefixes: tuple[str, str]) -> None:
    """Files in another archive, in the same folder or relative to the export's own root."""
    pack(init / "z.bz2", real, prefixes[0], lambda name: name != FILE)
    pack(init / "a.bz2", real, prefixes[1], lambda name: name == FILE)
    check_real(imported(init), "z.bz2")


def test_real_half_is_missing(real: Path, init: Path) -> None:
    """One half of a split export is refused, naming the file."""
    pack(init / "e.bz2", real, "", lambda name: name != FILE)
    with pytest.raises(ImportRefused) as caught:
        imported(init)
    assert ("e.bz2", FILE) == (caught.value.archive, caught.value.member)


# --- places of exports


def test_no_dataindex(tmp_path: Path) -> None:
    """Without dataindex.json the export is incomplete; the refusal says so."""
    error = refused(write(tmp_path / "e"))
    assert "e" == error.archive
    assert "is incomplete" in error.reason
    assert "devpi-export" in error.hint


def test_unrelated_part(tmp_path: Path) -> None:
    """A tree that adds nothing, perhaps the rest of another export, is not ignored silently."""
    other = write(tmp_path / "other", files={"bob/dev/x": b"x"})
    assert "other" == refused(write(tmp_path / "e", DATA), other).archive


def test_hidden_and_inner_dataindex(tmp_path: Path) -> None:
    """A snapshot's copy is no second export; neither is a file in the export."""
    root = write(tmp_path / "e", DATA)
    write(root / ".snapshot" / "daily", DATA)
    write(root / "alice" / "dev", DATA)
    assert 2 == loaded(root).totals.files


def test_several_exports_in_one_archive(tmp_path: Path) -> None:
    """Folders with an export each are merged."""
    write(tmp_path / "e" / "a", DATA)
    write(tmp_path / "e" / "b", edited(lambda d: d["indexes"].pop("alice/dev")), {})
    assert 2 == loaded(tmp_path / "e").totals.indexes


def test_missing_file(tmp_path: Path) -> None:
    """A missing file is reported."""
    error = refused(write(tmp_path / "e", DATA, {FILE: CONTENT}))
    assert ("e", DOC) == (error.archive, error.member)


def test_file_is_a_folder(tmp_path: Path) -> None:
    """Only regular files are accepted."""
    root = write(tmp_path / "e", DATA, {FILE: CONTENT})
    (root / DOC).mkdir()
    assert DOC == refused(root).member


@pytest.mark.parametrize("linked", [FILE, "alice/dev/pkg/1.0", "alice", "dataindex.json"])
def test_links_are_not_followed(tmp_path: Path, linked: str) -> None:
    """No component of a file's path may be a link, even one that stays inside."""
    root = write(tmp_path / "e", DATA)
    (root / linked).rename(root / "elsewhere")
    (root / linked).symlink_to(root / "elsewhere")
    assert "link" in refused(root).reason


# --- several exports


def bob(data: dict[str, Any]) -> dict[str, Any]:
    """Make the data another user's, without files."""
    data["users"]["bob"] = data["users"].pop("alice")
    data["users"]["bob"]["username"] = "bob"
    data["indexes"]["bob/dev"] = data["indexes"].pop("alice/dev")
    data["indexes"]["bob/dev"]["files"] = []
    return data


def pair(tmp_path: Path, change: Change) -> tuple[Path, Path]:
    """Alice's export, and Bob's with a change."""
    return write(tmp_path / "first", DATA), write(tmp_path / "second", edited(lambda d: change(bob(d))), {})


def test_merge(tmp_path: Path) -> None:
    """Different indexes are merged; equal users and an equal root/pypi may be in both, whatever their times."""
    export = loaded(*pair(tmp_path, lambda d: d["users"]["root"].update(created="2025-01-01T00:00:00Z")))
    assert {"root", "alice", "bob"} == set(export.data["users"])
    assert {"root/pypi": "first", "alice/dev": "first", "bob/dev": "second"} == export.archive_of
    assert Totals(users=3, indexes=3, projects=2, files=2, bytes=len(CONTENT) + 22) == export.totals


def test_same_index_twice(tmp_path: Path) -> None:
    """An index in two exports is refused; the error contains both."""
    error = refused(write(tmp_path / "first", DATA), write(tmp_path / "second", DATA))
    assert "second" == error.archive
    assert "'first'" in error.reason
    assert "'alice/dev'" in error.reason


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: d["users"].update(alice={"pwhash": "other"}), "'alice'"),
        (lambda d: d["users"]["root"].update(email="x"), "'root'"),
        (lambda d: d["users"]["root"].update(pwhash="other"), "password"),
        (lambda d: d["indexes"]["root/pypi"]["indexconfig"].update(mirror_url="https://x"), "'root/pypi'"),
        (lambda d: d["indexes"]["root/pypi"].update(projects={"x": {}}), "'root/pypi'"),
        (lambda d: d.update(dumpversion=1), "dumpversion"),
        (lambda d: d["indexes"]["bob/dev"].update(files=[RELEASE]), FILE),
    ],
)
def test_contradictions_name_both(tmp_path: Path, change: Change, word: str) -> None:
    """Conflicts between two exports are refused; the error contains both."""
    error = refused(*pair(tmp_path, change))
    assert "second" == error.archive
    assert "'first'" in error.reason
    assert word in error.reason


def test_root_passwords_may_differ_when_replaced(tmp_path: Path) -> None:
    """With a provided password, root's hashes may differ; the first is used until it is replaced."""
    trees = pair(tmp_path, lambda d: d["users"]["root"].update(pwhash="other"))
    assert "hash of root" == loaded(*trees, root_password_provided=True).data["users"]["root"]["pwhash"]


ARGON2 = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$zL2j6VSjJKz0Sj5GL1rhtxu2dZzdrCRos/qoJ13bpBE"
UNBEARABLE = ARGON2.replace("m=8,t=1", "m=4194304,t=1")
ARGON2_OF_NOTHING = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$eX2j6VSjJKz0Sj5GL1rhtxu2dZzdrCRos/qoJ13bpBE"
"""Only used as one; nothing is computed here."""


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (lambda d: d["users"].pop("root"), "absent"),
        (lambda d: d["users"]["root"].update(pwhash=ARGON2), "set"),
        (lambda d: d["users"]["root"].update(pwhash=ARGON2_OF_NOTHING), "empty"),
        (lambda d: None, "unusable"),
        (lambda d: d["users"]["root"].update(pwhash="6a" * 32, pwsalt="salt"), "unusable"),
        (lambda d: d["users"]["root"].update(pwhash=ARGON2, pwsalt="salt"), "unusable"),
        (lambda d: d["users"]["root"].update(pwhash=ARGON2[:-1]), "unusable"),
        (lambda d: d["users"]["root"].update(pwhash=None), "empty"),
        (lambda d: d["users"]["root"].pop("pwhash"), "empty"),
    ],
)
def test_root_password(tmp_path: Path, change: Change, state: str) -> None:
    """Root is absent, or has an empty, an uncheckable or a set password; another hash replaces any."""
    export = loaded(write(tmp_path / "e", edited(change)))
    assert state == export.root_user(lambda pwhash, pwsalt: (pwhash, pwsalt) == (ARGON2_OF_NOTHING, None))
    set_root_hash(export, "new")
    root = export.data["users"].get("root")
    assert root is None if state == "absent" else root["pwhash"] == "new" and "pwsalt" not in root


@pytest.mark.parametrize(
    "hashed",
    [
        {"pwhash": "6a" * 32, "pwsalt": "salt"},
        {"pwhash": ARGON2[:-20]},
        {"pwhash": ARGON2.replace("m=8,t=1", f"m=8,t={'9' * 5000}")},
        {"pwhash": ARGON2.replace("m=8,t=1,p=1", "m=65536,t=3,p=16777215")},
        {"pwhash": ARGON2.replace("p=1", "p=1,keyid=AAAA")},
    ],
    ids=["sha256", "truncated", "5,000 digits", "16 million lanes", "keyid"],
)
def test_hashes_that_devpi_cant_check(tmp_path: Path, hashed: dict[str, Any]) -> None:
    """They are loaded unchanged: argon2 does not try them, so they cost nothing and nobody can log in."""
    assert not is_hash_of("", hashed["pwhash"], hashed.get("pwsalt"))
    export = loaded(write(tmp_path / "e", edited(lambda d: d["users"].update(carol=hashed, root=hashed))))
    assert hashed.items() <= export.data["users"]["carol"].items()
    assert "unusable" == export.root_user(is_hash_of_empty)


@pytest.mark.parametrize("pwhash", [{}, {"pwhash": None}, {"pwhash": ""}])
def test_no_password_is_none_for_devpi(tmp_path: Path, pwhash: dict[str, Any]) -> None:
    """A user without a hash gets None; otherwise the hash of "" would stay. All of these are equal."""
    first = write(tmp_path / "first", edited(lambda d: d["users"].update(carol=pwhash)))
    second = write(tmp_path / "second", DATA | {"users": {"carol": {}}, "indexes": {}}, {})
    users = loaded(first, second).data["users"]
    assert (None, "hash of alice") == (users["carol"]["pwhash"], users["alice"]["pwhash"])


# --- a hostile dataindex.json


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b"", "truncated"),
        (json.dumps(DATA).encode()[:-1], "truncated"),
        (json.dumps(DATA).encode()[:100], "line 1, column"),
        (b'{\n  "a": nonsense}', "line 2, column 8"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "'c' twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too long"),
        (b"[" * 100_000, "deep"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b"[1]", "not an object"),
        (b"{}", "lacks 'dumpversion'"),
    ],
)
def test_json(tmp_path: Path, raw: bytes, word: str) -> None:
    """Invalid JSON is refused, with its position."""
    error = refused(write(tmp_path / "e", raw))
    assert ("e", "dataindex.json") == (error.archive, error.member)
    assert word in error.reason


def test_json_too_large(tmp_path: Path) -> None:
    """A dataindex.json above the limit is not read."""
    assert "larger" in refused(write(tmp_path / "e", DATA), limits=Limits(index_bytes=100)).reason


@given(st.integers(0, len(json.dumps(DATA)) - 1))
def test_json_truncated_anywhere(length: int) -> None:
    """No prefix of a dataindex.json is accepted as the whole."""
    with pytest.raises(ImportRefused, match=r"truncated|valid JSON"):
        parse(json.dumps(DATA).encode()[:length], "e", "dataindex.json")


def release(**fields: object) -> Change:
    """Change the release file's description."""
    return lambda d: d["indexes"]["alice/dev"]["files"][0].update(fields)


def mapping(**fields: object) -> Change:
    """Change its entrymapping."""
    return lambda d: d["indexes"]["alice/dev"]["files"][0]["entrymapping"].update(fields)


def index(**fields: object) -> Change:
    """Change the index."""
    return lambda d: d["indexes"]["alice/dev"].update(fields)


def deep(levels: int) -> object:
    """A list in a list in a list."""
    value: object = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: d.pop("users"), "lacks 'users'"),
        (lambda d: d.update(users=[]), "'users' is not an object"),
        (lambda d: d.update(indexes=None), "'indexes' is not an object"),
        (lambda d: d.update(dumpversion="3"), "'3'"),
        (lambda d: d.update(dumpversion=True), "True"),
        (lambda d: d.update(dumpversion=[2]), "[2]"),
        (lambda d: d["users"].update(alice=1), "user 'alice' is not an object"),
        (lambda d: d["users"].update({"a/b": {}}), "'a/b'"),
        (lambda d: d["users"].update({"a:b": {}}), "'a:b'"),
        (lambda d: d["users"].update({"a\nb": {}}), r"'a\nb'"),
        (lambda d: d["users"]["alice"].update(username="root"), "'root'"),
        (lambda d: d["users"]["alice"].update(indexes={"x": {}}), "contains indexes"),
        (lambda d: d["users"]["alice"].update(custom_data=deep(500)), "nested"),
        (lambda d: d["indexes"].update({"dev": {}}), "user/index"),
        (lambda d: d["indexes"].update({"alice/a/b": {}}), "'a/b'"),
        (lambda d: d["indexes"].update({"alice/a b": {}}), "'a b'"),
        (lambda d: d["indexes"].update({"bob/dev": {}}), "user that isn't in the export"),
        (lambda d: d["indexes"].update({"alice/x": {}}), "indexconfig"),
        (index(indexconfig={}), "type"),
        (index(indexconfig={"type": 1}), "type"),
        (index(indexconfig={"type": "stage", "bases": None}), "bases"),
        (index(indexconfig={"type": "stage", "bases": "root/pypi"}), "bases"),
        (index(indexconfig={"type": "stage", "bases": [1]}), "a base"),
        (index(indexconfig={"type": "stage", "x": deep(500)}), "nested"),
        (index(projects=[]), "projects"),
        (index(projects={"pkg": []}), "project 'pkg'"),
        (index(projects={"../pkg": {}}), "'../pkg'"),
        (index(projects={"pkg": {"1.0": "x"}}), "version '1.0'"),
        (index(projects={"pkg": {"1.0": {}}}), "name"),
        (index(projects={"pkg": {"1/0": {}}}), "'1/0'"),
        (index(projects={"pkg": {"1.0": {"name": "pkg", "version": "../1"}}}), "'../1'"),
        (index(projects={"pkg": {"1.0": {"name": "pkg", "+elinks": []}}}), "'+elinks'"),
        (index(projects={"pkg": {"1.0": {"name": "pkg", "x": deep(500)}}}), "nested"),
        (index(projects={"other": {}}), "'pkg', which is not in the index"),
        (index(files={}), "files"),
        (index(files=["x"]), "file 0"),
        (index(files=[RELEASE, RELEASE]), "twice"),
        (release(type="wheel"), "'wheel'"),
        (release(type=[]), "the type []"),
        (release(projectname=None), "projectname"),
        (release(version=None), "version"),
        (release(relpath=None), "relpath"),
        (release(relpath=""), "can't be the path of a file"),
        (release(relpath="alice/"), "can't be the path of a file"),
        (release(relpath="alice/dev/x/.."), "can't be the path of a file"),
        (release(relpath="alice/dev/x/."), "can't be the path of a file"),
        (release(relpath="a\0b"), r"a\x00b"),
        (release(relpath="a/" * 5000 + "b"), "deep"),
        (release(log="x"), "log"),
        (release(log=["x"]), "log"),
        (release(for_entrypath=None), "for_entrypath"),
        (release(type="toxresult"), "for_entrypath"),
        (release(entrymapping=None), "entrymapping"),
        (release(entrymapping={}), "last_modified"),
        (mapping(last_modified=1), "last_modified"),
        (mapping(last_modified="a\r\nSet-Cookie: x=1"), "no valid header value"),
        (mapping(last_modified="\u20ac"), "no valid header value"),
        (mapping(hashes=None), "hashes"),
        (mapping(hashes={}), "no digest"),
        (mapping(hashes={"sha256": "ab"}), "digest"),
        (mapping(hashes={"sha256": "Z" * 64}), "digest"),
        (mapping(hashes={"sha256": None}), "digest"),
        (mapping(hashes={"new": "ab"}), "digest"),
        (mapping(md5=1), "digest"),
        (mapping(hash_spec=""), "digest"),
        (mapping(hash_spec="sha256=" + "0" * 64), "two different"),
    ],
)
def test_schema(tmp_path: Path, change: Change, word: str) -> None:
    """Everything that would break devpi's importer, or that it would trust, is refused by name."""
    error = refused(write(tmp_path / "e", edited(change)))
    assert ("e", "dataindex.json") == (error.archive, error.member)
    assert word in error.reason
    assert len(error.reason) < 1000


@pytest.mark.parametrize(
    "relpath", ["/proc/self/environ", "../secret", "..", "alice/../../secret", "./../x", "alice/dev/../../../x"]
)
def test_a_file_outside_is_left_out_alone(tmp_path: Path, relpath: str) -> None:
    """Neither read nor passed to devpi; with `strict`, it refuses the export, with the file as the member."""
    root = write(tmp_path / "e", edited(release(relpath=relpath)))
    omissions = Omissions(strict=False)
    export = loaded(root, omissions=omissions)
    assert [DOC] == [file["relpath"] for file in export.data["indexes"]["alice/dev"]["files"]] == list(export.files)
    assert (1, 1) == (export.totals.files, omissions.total)
    assert ("e", relpath, "leads out of the export") == (
        omissions.first[0].archive,
        omissions.first[0].member,
        omissions.first[0].reason,
    )
    assert relpath == refused(root).member


def test_the_tox_results_of_what_is_left_out_are_left_out_too(tmp_path: Path) -> None:
    """devpi's importer would fail if the file that they belong to is missing."""
    tox = "alice/dev/pkg/sha256=1/pkg-1.0.tar.gz.toxresult-0"

    def change(data: dict[str, Any]) -> None:
        files = data["indexes"]["alice/dev"]["files"]
        files[0]["relpath"] = "../x/pkg-1.0.tar.gz"
        for version in ("1.0", "2.0"):
            result = {"type": "toxresult", "projectname": "Pkg", "version": version, "relpath": f"{tox}{version}"}
            files.append(result | {"for_entrypath": "alice/dev/+f/1/2/pkg-1.0.tar.gz#sha256=1"})

    omissions = Omissions(strict=False)
    export = loaded(write(tmp_path / "e", edited(change), FILES | {f"{tox}2.0": b"{}"}), omissions=omissions)
    assert [DOC, f"{tox}2.0"] == list(export.files)
    assert ["../x/pkg-1.0.tar.gz", f"{tox}1.0"] == [each.member for each in omissions.first]


def test_devpis_version_of_two_dots(tmp_path: Path) -> None:
    """devpi-export writes its file one folder above, with `..` in the path."""
    relpath = "alice/dev/pkg/../pkg-...tar.gz"

    def change(data: dict[str, Any]) -> None:
        data["indexes"]["alice/dev"]["projects"]["pkg"][".."] = {"name": "pkg", "version": ".."}
        data["indexes"]["alice/dev"]["files"][0].update(version="..", relpath=relpath)

    export = loaded(write(tmp_path / "e", edited(change), {"alice/dev/pkg-...tar.gz": CONTENT, DOC: b"1"}))
    assert {relpath: CONTENT, DOC: b"1"} == {name: path.read_bytes() for name, path in export.files.items()}


@pytest.mark.parametrize("hashed", [{"pwhash": 1}, {"pwhash": "x", "pwsalt": []}, {"pwhash": UNBEARABLE}])
def test_a_hash_that_must_not_be_checked_is_left_out_alone(tmp_path: Path, hashed: dict[str, Any]) -> None:
    """The user is imported without a password, and reported."""
    root = write(tmp_path / "e", edited(lambda d: d["users"]["alice"].update(hashed)))
    omissions = Omissions(strict=False)
    alice = loaded(root, omissions=omissions).data["users"]["alice"]
    assert (None, "a@example.org") == (alice["pwhash"], alice["email"])
    assert "pwsalt" not in alice
    assert ["the password hash of user 'alice'"] == [each.member for each in omissions.first]
    assert "the password hash of user 'alice'" == refused(root).member


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_only_python_has(number: str) -> None:
    """devpi's API accepts them, and devpi-export writes them."""
    assert not math.isfinite(parse(b'{"a": ' + number.encode() + b"}", "e", "dataindex.json")["a"])


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(dumpversion=2),
        lambda d: d["users"].update({name: {} for name in ("..", ".", "a\u00a0b", "\x7f")}),
        lambda d: d["users"]["alice"].update(title=5, email=[1], description={"a": None}),
        lambda d: d["indexes"]["alice/dev"]["projects"]["pkg"].update(
            {"1\u200b0": {"name": "pkg"}, "": {"name": "pkg"}}
        ),
        release(version=""),
        mapping(last_modified="f\xe9vrier"),
        lambda d: d["users"].pop("root"),
        lambda d: d["users"]["alice"].update(pwsalt=None, custom_data={"x": [1]}),
        lambda d: d["indexes"]["alice/dev"]["indexconfig"].update(type="plugin", bases=["root/pypi", "gone/away"]),
        lambda d: d["indexes"]["alice/dev"]["indexconfig"].pop("bases"),
        lambda d: d["indexes"]["alice/dev"]["projects"]["pkg"]["1.0"].update({"+doczip": "x", "yanked": True}),
        release(projectname="PKG", log=[{"what": "upload"}]),
        mapping(hashes={}, md5="0" * 32),
        mapping(hashes={}, hash_spec="md5=" + "0" * 32),
        release(type="toxresult", for_entrypath="alice/dev/x", entrymapping={"hashes": {}}),
    ],
)
def test_schema_accepts(tmp_path: Path, change: Change) -> None:
    """Entries that devpi itself handles are accepted."""
    assert 2 == loaded(write(tmp_path / "e", edited(change))).totals.files


def test_dumpversion_1(tmp_path: Path) -> None:
    """Old exports have no version in their files, and separate md5 digests."""

    def old(data: dict[str, Any]) -> None:
        data["dumpversion"] = "1"
        for file in data["indexes"]["alice/dev"]["files"]:
            del file["version"]
        data["indexes"]["alice/dev"]["files"][0]["entrymapping"] = {"md5": "0" * 32, "last_modified": None}

    assert "1" == loaded(write(tmp_path / "e", edited(old))).data["dumpversion"]


def test_unverified_is_a_choice(tmp_path: Path) -> None:
    """A release file without a digest needs the operator's consent; the refusal names the setting."""
    root = write(tmp_path / "e", edited(mapping(hashes={})))
    assert "SIDECAR_IMPORT_ALLOW_UNVERIFIED=true" in refused(root).hint
    assert 2 == loaded(root, allow_unverified=True).totals.files


def test_mirrored_files_need_their_url(tmp_path: Path) -> None:
    """devpi stores a mirror's file under its URL."""
    is_mirror = index(indexconfig={"type": "mirror"})
    assert "url" in refused(write(tmp_path / "e", edited(is_mirror))).reason
    change = mapping(url="https://files.example.org/pkg-1.0.tar.gz")
    assert loaded(write(tmp_path / "e", edited(lambda d: (is_mirror(d), change(d))))).totals.files


def test_bases_in_a_circle(tmp_path: Path) -> None:
    """Cyclic bases, on which devpi's importer would loop forever, are refused."""

    def circle(data: dict[str, Any]) -> None:
        for name, bases in {"alice/b": ["alice/c"], "alice/c": ["alice/b"]}.items():
            data["indexes"][name] = {"indexconfig": {"type": "stage", "bases": bases}}

    error = refused(write(tmp_path / "e", edited(circle)))
    assert "alice/b" in error.reason
    assert "alice/c" in error.reason


def test_file_in_two_indexes(tmp_path: Path) -> None:
    """Two indexes may share a file; it counts twice, because devpi stores it twice."""

    def share(data: dict[str, Any]) -> None:
        data["indexes"]["alice/b"] = copy.deepcopy(data["indexes"]["alice/dev"])

    totals = loaded(write(tmp_path / "e", edited(share))).totals
    assert (4, 2 * sum(map(len, FILES.values()))) == (totals.files, totals.bytes)


@given(st.text(max_size=5))
def test_names_as_devpi_has_them(name: str) -> None:
    """Exactly the names that devpi allows are accepted."""
    data = {"dumpversion": "2", "users": {name: {}}, "indexes": {}}
    try:
        Checked(data, "e", "dataindex.json", False, Omissions(strict=True))
    except ImportRefused:
        assert not is_valid_name(name)
    else:
        assert is_valid_name(name)


@given(st.text(max_size=10))
def test_projects_compare_as_in_devpi(name: str) -> None:
    """Project names are normalised as in devpi."""
    from devpi_server.normalized import normalize_name

    assert str.__str__(normalize_name(name)) == normalized(name)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(value=json_values, data=st.data())
def test_any_value_anywhere(value: object, data: st.DataObject) -> None:
    """Whatever is anywhere in it, the check ends with a verdict and never with another exception."""
    document = copy.deepcopy(DATA)
    place: Any = document
    key = data.draw(st.sampled_from(sorted(place)))
    while isinstance(place[key], dict | list) and place[key] and data.draw(st.integers(0, 4)):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    place[key] = value
    try:
        checked = Checked(document, "e", "dataindex.json", False, Omissions(strict=data.draw(st.booleans())))
    except ImportRefused:
        return
    assert all(not path.startswith(("/", "..")) for path in checked.relpaths)
