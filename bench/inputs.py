"""The inputs: exports in the format of devpi-export, with real wheels and sdists; one seed always gives the same.

Cached under `.bench/inputs`; a change of this module, or of `testbed.packages`, recreates them.
"""

from __future__ import annotations

import bz2
import contextlib
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import argon2.low_level

from testbed import packages

WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "larch")
USER_PASSWORD = "bench-password"


@dataclass(frozen=True)
class Spec:
    """What an export holds."""

    projects: int
    files: int
    indexes: int = 4
    """Two a user: `alice/prod`, `alice/dev`, `bob/prod`, `bob/dev`; or `alice/prod` alone."""
    seed: int = 20261122

    def __post_init__(self) -> None:
        if self.files % self.projects or self.indexes not in (1, 4):
            raise ValueError("every project has as many files as every other, in 1 index or 4")

    def index_names(self) -> list[str]:
        return ["alice/prod", "alice/dev", "bob/prod", "bob/dev"][: self.indexes]

    def project_name(self, number: int) -> str:
        return f"{WORDS[number % len(WORDS)]}-{WORDS[number // len(WORDS) % len(WORDS)]}-{number:05d}"

    def index_of(self, number: int) -> str:
        return self.index_names()[number % self.indexes]


SMALL = Spec(projects=50, files=200)
TINY = Spec(projects=4, files=8)


@dataclass(frozen=True)
class Export:
    """An input on disk."""

    spec: Spec
    home: Path

    @property
    def tree(self) -> Path:
        """The export, as devpi-export leaves it."""
        return self.as_directory / "export"

    @property
    def as_directory(self) -> Path:
        """An init directory with the export as a directory."""
        return self.home / "directory"

    @property
    def as_archive(self) -> Path:
        """An init directory with the export as `backup.tar.bz2`."""
        return self.home / "archive"

    @property
    def archive(self) -> Path:
        return self.as_archive / "backup.tar.bz2"

    def probe(self) -> tuple[str, str]:
        """The last project, and its index."""
        number = self.spec.projects - 1
        return self.spec.index_of(number), self.spec.project_name(number)


def export(inputs: Path, spec: Spec) -> Export:
    """The export that `spec` describes, made where it is not there yet."""
    made = Export(spec, inputs / f"{spec.projects}-{spec.files}-{spec.indexes}-{spec.seed}-{_version()}")
    if not made.home.is_dir():
        with _partial(made.home) as partial:
            _write(Export(spec, partial))
    if sum(len(names) for _, _, names in os.walk(made.tree)) != spec.files + 1:
        raise ValueError(f"{made.tree} has been changed: remove it")
    return made


def _write(target: Export) -> None:
    target.tree.mkdir(parents=True)
    target.as_archive.mkdir()
    data = dataindex(target.spec)
    for number in range(target.spec.projects):
        index = data["indexes"][target.spec.index_of(number)]
        name = target.spec.project_name(number)
        for package in _packages(target.spec, number):
            index["projects"].setdefault(name, {})[package.version] = package.metadata()
            path = target.tree / target.spec.index_of(number) / name / package.version / package.filename
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(package.content)
            index["files"].append(file_entry(name, package.version, path.relative_to(target.tree), package.digest))
    (target.tree / "dataindex.json").write_text(json.dumps(data))
    with tarfile.open(target.archive, "w:bz2") as archive:  # in the order of names
        archive.add(target.tree, ".")


def _packages(spec: Spec, number: int) -> Iterator[packages.Package]:
    """Wheel and sdist of version 1.0, then of 1.1, and so on."""
    for position in range(spec.files // spec.projects):
        make = packages.wheel if position % 2 == 0 else packages.sdist
        yield make(spec.project_name(number), f"1.{position // 2}", spec.seed * 100_000 + number)


def dataindex(spec: Spec) -> dict[str, Any]:
    """`dataindex.json` without projects: users with the password `USER_PASSWORD`, and empty indexes."""
    names = spec.index_names()
    users = ["root", *dict.fromkeys(name.partition("/")[0] for name in names)]
    return {
        "dumpversion": "2",
        "devpi_server": "6.20.3",
        "pythonversion": [3, 11, 7, "final", 0],
        "users": {
            name: {"username": name, "created": "2026-11-22T12:00:00Z", "pwhash": _password_hash(name)}
            for name in users
        },
        "indexes": {name: {"indexconfig": _index_config(name), "projects": {}, "files": []} for name in names},
    }


def _index_config(name: str) -> dict[str, Any]:
    user, _, index = name.partition("/")
    return {
        "type": "stage",
        "bases": [f"{user}/prod"] if index == "dev" else [],
        "volatile": True,
        "acl_upload": [user],
        "acl_toxresult_upload": [":ANONYMOUS:"],
        "mirror_whitelist": [],
        "mirror_whitelist_inheritance": "intersection",
    }


def file_entry(project: str, version: str, relpath: Path, digest: str) -> dict[str, Any]:
    """A release file, as `dataindex.json` names it."""
    index = "/".join(relpath.parts[:2])
    return {
        "type": "releasefile",
        "projectname": project,
        "version": version,
        "relpath": relpath.as_posix(),
        "entrymapping": {
            "project": project,
            "version": version,
            "last_modified": "Sun, 22 Nov 2026 12:00:00 GMT",
            "hash_spec": f"sha256={digest}",
            "hashes": {"sha256": digest},
        },
        "log": [
            {"what": "upload", "who": index.partition("/")[0], "when": [2026, 11, 22, 12, 0, 0], "dst": index},
        ],
    }


def _password_hash(user: str) -> str:
    """As devpi hashes it, but with a salt that is always the same."""
    salt = hashlib.sha256(user.encode()).digest()[:16]
    kind = argon2.low_level.Type.ID
    return argon2.low_level.hash_secret(USER_PASSWORD.encode(), salt, 3, 65536, 4, 32, kind).decode()


def _version() -> str:
    sources = Path(__file__).read_bytes() + Path(packages.__file__).read_bytes()
    return hashlib.sha256(sources).hexdigest()[:8]


@contextlib.contextmanager
def _partial(home: Path) -> Iterator[Path]:
    """A folder that becomes `home` when it is complete."""
    home.parent.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(dir=home.parent, prefix=".partial-"))
    try:
        yield path
        path.chmod(0o755)
        path.rename(home)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def big(inputs: Path, total: int, file_bytes: int = 16 * 2**20) -> Path:
    """An init directory with one `.tar.bz2` of about `total` bytes unpacked: large wheels that don't compress.

    All wheels hold the same random blocks; the archive is many bz2 streams one after the other, as pbzip2 writes it,
    and so each block is compressed once. (Unpacking costs the same for each, every time.)
    """
    spec = Spec(projects=max(1, total // file_bytes), files=max(1, total // file_bytes), indexes=1)
    home = inputs / f"big-{total}-{file_bytes}-{_version()}"
    if not home.is_dir():
        with _partial(home) as partial:
            _write_big(partial / "backup.tar.bz2", spec, file_bytes)
    return home


def _write_big(archive: Path, spec: Spec, file_bytes: int) -> None:
    blocks = packages.Blocks(spec.seed, file_bytes)
    data = dataindex(spec)
    index = data["indexes"]["alice/prod"]
    with archive.open("wb") as out:
        for number in range(spec.projects):
            name = spec.project_name(number)
            wheel = packages.large_wheel(name, "1.0", blocks)
            relpath = Path("alice/prod", name, "1.0", wheel.filename)
            index["projects"][name] = {"1.0": packages.metadata(name, "1.0")}
            index["files"].append(file_entry(name, "1.0", relpath, wheel.digest))
            before = _tar_header(relpath, wheel.size) + wheel.before
            out.write(bz2.compress(before))
            out.write(blocks.compressed)
            out.write(bz2.compress(wheel.after + bytes(-wheel.size % tarfile.BLOCKSIZE)))
        text = json.dumps(data).encode()
        end = text + bytes(-len(text) % tarfile.BLOCKSIZE) + bytes(2 * tarfile.BLOCKSIZE)
        out.write(bz2.compress(_tar_header(Path("dataindex.json"), len(text)) + end))


def _tar_header(relpath: Path, size: int) -> bytes:
    info = tarfile.TarInfo(relpath.as_posix())
    info.size = size
    info.mtime = 1795348800
    return info.tobuf(tarfile.GNU_FORMAT)
