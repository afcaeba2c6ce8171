"""Exports to import: a rich one, made by a real devpi-server, and small ones, written directly."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher

from tests.support.container import Container, cleared_away, login

DEAD = "http://127.0.0.1:9"
"""Nobody listens there, so a mirror of it reaches nothing."""
BIN = Path(sys.executable).parent
PASSWORDS = {"root": "root's own password", "alice": "alice's secret", "bob": "bob's pässwörd"}
MASS_PASSWORD = "the secret of mass"
CLASSIFIERS = ["Programming Language :: Python :: 3", "License :: OSI Approved :: MIT License"]
TOX_RESULT = {
    "reportversion": "1",
    "toxversion": "4.11.0",
    "platform": "linux",
    "host": "ci.example",
    "testenvs": {"py311": {"test": [{"command": ["pytest"], "output": "ok", "retcode": "0"}]}},
}


def wheel(name: str, version: str, content: str = "", metadata: str = "") -> tuple[str, bytes]:
    """A real wheel of one module: its file name and its bytes, the same at every call."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    files = {
        f"{name.replace('-', '_')}.py": f"VERSION = {version!r}\n{content}",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.writerow([path, f"sha256={digest}", len(text.encode())])
    rows.writerow([f"{info}/RECORD", "", ""])
    return f"{stem}-py3-none-any.whl", zipped(files | {f"{info}/RECORD": record.getvalue()})


def zipped(files: Mapping[str, str]) -> bytes:
    """A zip file, the same for the same files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path, (2026, 1, 1, 0, 0, 0)), text)
    return buffer.getvalue()


def sdist(name: str, version: str) -> tuple[str, bytes]:
    """A source distribution: its file name and its bytes."""
    stem = f"{name}-{version}"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, text in {
            "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            "pyproject.toml": "[project]\n",
        }.items():
            member = tarfile.TarInfo(f"{stem}/{path}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return f"{stem}.tar.gz", buffer.getvalue()


# --- a rich export, made through HTTP by a real devpi-server --------------------------------------------------------


class Uploader:
    """A user of a running devpi-server, over HTTP like devpi's and twine's clients."""

    def __init__(self, devpi: str, user: str, password: str) -> None:
        self._devpi = devpi
        status, token = login(devpi, user, password)
        assert status == 200, (user, status)
        self._auth = base64.b64encode(f"{user}:{token}".encode()).decode()

    def json(self, method: str, path: str, content: object) -> None:
        """Send JSON; raise unless it succeeds."""
        self._send(method, path, json.dumps(content).encode(), "application/json")

    def post(self, index: str, action: str, file: tuple[str, bytes] | None = None, **fields: str | list[str]) -> None:
        """Send a form like `twine upload`."""
        boundary = "7a1f0e6f0d2c4b3d"
        parts: list[tuple[str, bytes]] = [('name=":action"', action.encode())]
        for name, value in fields.items():
            parts += [(f'name="{name}"', each.encode()) for each in (value if isinstance(value, list) else [value])]
        if file is not None:
            parts.append((f'name="content"; filename="{file[0]}"', file[1]))
        body = b"".join(
            f"--{boundary}\r\nContent-Disposition: form-data; {name}\r\n\r\n".encode() + value + b"\r\n"
            for name, value in parts
        )
        self._send(
            "POST", f"/{index}/", body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"
        )

    def _send(self, method: str, path: str, body: bytes, kind: str) -> None:
        headers = {"Content-Type": kind, "Accept": "application/json", "X-Devpi-Auth": self._auth}
        call = urllib.request.Request(self._devpi + path, data=body, headers=headers, method=method)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(call, timeout=30):
                pass
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{method} {path}: {error.code} {error.read()[:500]!r}") from None


def fill(devpi: str) -> None:
    """Create users, indexes, projects, documentation and a tox result, of every kind that an export can contain."""
    root = Uploader(devpi, "root", PASSWORDS["root"])
    root.json(
        "PATCH",
        "/root/pypi",
        {"mirror_url": f"{DEAD}/simple/", "mirror_web_url_fmt": f"{DEAD}/{{name}}/", "title": "PyPI"},
    )
    for user in ("alice", "bob"):
        root.json(
            "PUT", f"/{user}", {"password": PASSWORDS[user], "email": f"{user}@example.com", "title": f"Ms. {user}"}
        )
    indexes: dict[str, dict[str, Any]] = {
        "alice/base": {"type": "stage", "bases": [], "volatile": False, "acl_upload": ["alice"]},
        "alice/dev": {
            "type": "stage",
            "bases": ["alice/base"],
            "volatile": True,
            "acl_upload": ["alice", "bob"],
            "acl_toxresult_upload": ["alice"],
            "mirror_whitelist": ["hello-world"],
            "title": "Entwicklung für alle",
        },
        "bob/mirror": {"type": "mirror", "mirror_url": f"{DEAD}/simple/", "mirror_cache_expiry": 77, "volatile": False},
        "bob/prod": {"type": "stage", "bases": ["alice/dev", "bob/mirror"], "acl_upload": ["bob"]},
        "bob/empty": {"type": "stage", "bases": []},
    }
    for index, config in indexes.items():
        root.json("PUT", f"/{index}", config)
    alice, bob = (Uploader(devpi, user, PASSWORDS[user]) for user in ("alice", "bob"))
    about: dict[str, str | list[str]] = {
        "summary": "Says hello",
        "description": "# Hello\n\nGrüße, «мир», 世界 ☃\n",
        "description_content_type": "text/markdown",
        "classifiers": CLASSIFIERS,
        "requires_python": ">=3.8,<4",
        "keywords": "hello, world",
        "license": "MIT",
        "author": "Alice",
        "author_email": "alice@example.com",
        "project_urls": ["Home, https://example.com/"],
    }
    for version in ("1.0", "1.1", "2.0rc1"):
        for kind, file in (("bdist_wheel", wheel("hello-world", version)), ("sdist", sdist("hello_world", version))):
            alice.post(
                "alice/dev",
                "file_upload",
                file,
                name="hello-world",
                version=version,
                filetype=kind,
                pyversion="py3",
                **about,
            )
    alice.post(
        "alice/base",
        "file_upload",
        wheel("Mixed.Name", "1.0"),
        name="Mixed.Name",
        version="1.0",
        filetype="bdist_wheel",
    )
    alice.post(
        "alice/base",
        "file_upload",
        wheel("mixed-name", "1.1"),
        name="mixed_name",
        version="1.1",
        filetype="bdist_wheel",
    )
    alice.post("alice/dev", "submit", name="announced", version="0.1", summary="no file yet")
    docs = zipped({"index.html": "<h1>Grüße</h1>", "deep/er/page.html": "<p>deep</p>"})
    alice.post("alice/dev", "doc_upload", ("hello-world-1.0.zip", docs), name="hello-world", version="1.0")
    name, content = wheel("hello-world", "1.1")
    digest = hashlib.sha256(content).hexdigest()
    alice.json("POST", f"/alice/dev/+f/{digest[:3]}/{digest[3:16]}/{name}", TOX_RESULT)
    bob.json("POST", "/alice/dev", {"name": "hello-world", "version": "1.0", "targetindex": "bob/prod"})


def export(serverdir: Path, into: Path, *options: str) -> Path:
    """Run `devpi-export` like an operator."""
    done = subprocess.run(
        [BIN / "devpi-export", "--serverdir", serverdir, *options, into],
        env={"PATH": os.environ["PATH"], "HOME": str(into.parent)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return into


def make_rich(home: Path) -> Path:
    """The directory of a rich export, made by a devpi-server under `entrypoint.py`."""
    flags = ("--host", "127.0.0.1", "--port", "0", "--offline-mode")
    origin = Container(home / "origin", flags=flags, env={"DEVPI_PASSWORD": PASSWORDS["root"]})
    with cleared_away(origin.start()):
        origin.wait_ready()
        fill(origin.devpi)
        assert origin.stop() == 0
    return export(origin.serverdir, home / "export")


# --- exports written directly ---------------------------------------------------------------------------------------


def write(into: Path, projects: int = 1, files: int = 1, user: str = "mass", index: str = "dev") -> Path:
    """Write an export of `projects` times `files` small wheels, all at `user`/`index`. Returns its directory.

    root isn't in it; the user's password is MASS_PASSWORD.
    """
    data: dict[str, Any] = {
        "projects": {},
        "files": [],
        "indexconfig": {"type": "stage", "volatile": True, "bases": []},
    }
    for number in range(projects):
        name = f"{user}-{number:04}"
        versions = data["projects"][name] = {}
        for version in (f"1.{minor}" for minor in range(files)):
            versions[version] = {"name": name, "version": version, "summary": f"number {number}"}
            basename, content = wheel(name, version)
            relpath = f"{user}/{index}/{name}/{version}/{basename}"
            path = into / relpath
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
            mapping = {
                "hashes": {"sha256": hashlib.sha256(content).hexdigest()},
                "last_modified": "Sun, 22 Nov 2026 10:20:30 GMT",
            }
            data["files"].append(
                {
                    "type": "releasefile",
                    "projectname": name,
                    "version": version,
                    "relpath": relpath,
                    "entrymapping": mapping,
                    "log": [],
                }
            )
    pwhash = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(MASS_PASSWORD)
    into.mkdir(parents=True, exist_ok=True)
    save(
        into,
        {
            "dumpversion": "2",
            "users": {user: {"username": user, "pwhash": pwhash}},
            "indexes": {f"{user}/{index}": data},
        },
    )
    return into


def load(directory: Path) -> dict[str, Any]:
    """The `dataindex.json` of an export."""
    data: dict[str, Any] = json.loads((directory / "dataindex.json").read_text())
    return data


def save(directory: Path, data: dict[str, Any]) -> None:
    """Write the `dataindex.json` of an export."""
    (directory / "dataindex.json").write_text(json.dumps(data))


# --- packing --------------------------------------------------------------------------------------------------------


def pack(directory: Path, archive: Path, folder: str = ".") -> Path:
    """Tar an export, compressed according to the archive's name, below `folder` in the archive. Returns the archive."""
    mode = {".bz2": "w:bz2", ".tbz2": "w:bz2", ".gz": "w:gz", ".tgz": "w:gz", ".xz": "w:xz"}.get(archive.suffix, "w")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        tar.add(directory, folder)
    return archive


def pack_split(directory: Path, first: Path, second: Path) -> None:
    """Tar an export in two: the files of `dataindex.json` are partly in one archive, partly in the other."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    for archive, part in ((first, files[::2]), (second, files[1::2])):
        with tarfile.open(archive, "w:gz") as tar:
            for path in part:
                tar.add(path, path.relative_to(directory))


def pack_apart(directory: Path, into: Path) -> int:
    """Tar each file of an export into its own archive. Returns their number."""
    into.mkdir(parents=True, exist_ok=True)
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    for number, path in enumerate(files):
        with tarfile.open(into / f"part-{number:04}.tar", "w") as tar:
            tar.add(path, path.relative_to(directory))
    return len(files)


def names(directory: Path) -> set[str]:
    """The files in a directory."""
    return {path.name for path in directory.iterdir()}


def digests(directory: Path) -> dict[str, str]:
    """The SHA-256 of every file in a tree, by its relative path; for links, the target."""
    return dict(_digests(directory))


def _digests(directory: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(directory.rglob("*")):
        if path.is_symlink():
            yield str(path.relative_to(directory)), str(path.readlink())
        elif path.is_file():
            yield str(path.relative_to(directory)), hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Described:
    """The content of an export: its `dataindex.json` without what differs between any two, and file digests."""

    data: dict[str, Any]
    files: dict[str, str]

    @classmethod
    def of(cls, directory: Path) -> Described:
        """Read an export."""
        files = digests(directory)
        del files["dataindex.json"]
        data = load(directory)
        for index in data["indexes"].values():
            index.get("files", []).sort(key=lambda file: file["relpath"])
        return cls(data, files)
