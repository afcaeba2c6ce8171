"""What an upstream has: the list of projects, their pages and files, as JSON (PEP 691, 700, 658) and HTML (PEP 503)."""

from __future__ import annotations

import functools
import hashlib
import html
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from testbed import packages
from testbed.upstream_faults import Fault

JSON = "application/vnd.pypi.simple.v1+json"
HTML = "text/html; charset=utf-8"
PYPI_NAMES = 650_000
"""The number of projects on PyPI."""
REAL = 200
"""The versions of a project that have real wheels; the files of later ones have no more than their name as content."""
_NUMBERED = "package-of-upstream-"
_MIB = bytes(range(256)) * 4096
_UPLOADED = "2026-01-02T03:04:05.000006Z"
_INVALID = (
    "../../etc/passwd-{}",
    "with space {}",
    "-starts-with-a-hyphen-{}",
    "n\N{LATIN SMALL LETTER I WITH DIAERESIS}cht-ascii-{}",
    "<script>alert({})</script>",
    "line\nbreak-{}",
    "x" * 4000 + "{}",
    "%2e%2e%2f{}",
    "nul\0-{}",
    "{}.",
)
"""Names that no index may have (PEP 508)."""


@dataclass(frozen=True)
class Project:
    """How a project differs from others."""

    requires: tuple[str, ...] = ()
    """Its dependencies (PEP 508), in the metadata of each wheel."""
    versions: int | None = None
    file_bytes: int = 0
    """The size of its wheels, which are held in memory; 0: 4 kB."""
    streamed: int = 0
    """It has one sdist of so many bytes, made while it is sent."""
    wrong_digest: bool = False
    """Its page has digests of other bytes."""
    changes: bool = False
    """Each request gets other bytes under the same file name; the page has the digest of the first."""
    files_at: str | None = None
    """The start of its files' URLs, up to and including the slash before the file name."""
    filename: str | None = None
    """The name of its only file, whatever it is."""
    page_fault: Fault | None = None
    file_fault: Fault | None = None
    """Instead of the upstream's."""


@dataclass(frozen=True)
class File:
    """A file on a page."""

    name: str
    size: int
    digest: str
    version: str
    metadata: bytes | None = None
    """Its core metadata (PEP 658)."""


def numbered(number: int) -> str:
    """Return the name of one of the `size` projects."""
    return f"{_NUMBERED}{number:06d}"


def is_numbered(name: str, size: int) -> bool:
    """Whether it is one of them."""
    number = name.removeprefix(_NUMBERED)
    return (
        number != name
        and number.isascii()
        and number.isdigit()
        and int(number) < size
        and numbered(int(number)) == name
    )


def listed(names: Iterable[str], one_invalid_in: int) -> Iterator[str]:
    """Yield the names and, after so many of them, an invalid one; 0: none."""
    for number, name in enumerate(names, 1):
        yield name
        if one_invalid_in and number % (one_invalid_in - 1) == 0:
            yield _INVALID[number // (one_invalid_in - 1) % len(_INVALID)].format(number)


def project_list(names: Iterable[str], *, as_html: bool) -> bytes:
    """Return the list of projects."""
    if as_html:
        links = (f'<a href="/simple/{html.escape(name)}/">{html.escape(name)}</a><br>\n' for name in names)
        return f"<!DOCTYPE html><html><body>\n{''.join(links)}</body></html>\n".encode()
    return json.dumps(
        {"meta": {"api-version": "1.3", "_last-serial": 1}, "projects": [{"name": name} for name in names]}
    ).encode()


@functools.lru_cache(4096)
def wheel(name: str, version: str, size: int = 0, requires: tuple[str, ...] = ()) -> packages.Package:
    """Return a wheel of a project; with `size`, it has so many random bytes."""
    made = packages.wheel(name, version, 7, requires)
    if not size:
        return made
    large = packages.large_wheel(name, version, _blocks(size))
    return packages.Package(name, version, large.filename, large.before + _blocks(size).content + large.after)


@functools.lru_cache(2)
def _blocks(size: int) -> packages.Blocks:
    return packages.Blocks(7, size)


def content(name: str, filename: str, project: Project, versions: int) -> bytes | None:
    """Return a file in memory; None: there is no such file, or it is `streamed`."""
    if project.filename is not None:
        return b"of an unusual name" if filename == project.filename else None
    version = _version_of(filename)
    if version is None or version >= (project.versions or versions) or project.streamed:
        return None
    if version >= REAL:
        return filename.encode() if filename == _unreal(name, version) else None
    made = wheel(name, f"1.{version}", project.file_bytes, project.requires)
    return made.content if made.filename == filename else None


def _version_of(filename: str) -> int | None:
    parts = filename.split("-")
    number = parts[1].removeprefix("1.") if len(parts) > 2 else ""
    return int(number) if number.isascii() and number.isdigit() and len(number) < 9 else None


def _unreal(name: str, version: int) -> str:
    return f"{name.replace('-', '_')}-1.{version}-py3-none-any.whl"


@functools.lru_cache(4096)
def files(name: str, project: Project, versions: int) -> tuple[File, ...]:
    """Return the files of a project."""
    if project.filename is not None:
        return (_file(project.filename, b"of an unusual name", "1.0", None),)
    if project.streamed:
        return (File(_streamed(name), project.streamed, streamed_digest(project.streamed), "1.0"),)
    made = []
    for number in range(project.versions or versions):
        version = f"1.{number}"
        if number >= REAL:
            filename = _unreal(name, number)
            made.append(_file(filename, filename.encode(), version, None))
            continue
        real = wheel(name, version, project.file_bytes, project.requires)
        # as an index of which not all wheels have metadata
        metadata = packages.core_metadata(name, version, project.requires).encode() if number % 2 == 0 else None
        made.append(_file(real.filename, real.content, version, metadata))
    return tuple(made)


def _streamed(name: str) -> str:
    return f"{name.replace('-', '_')}-1.0.tar.gz"


def _file(filename: str, held: bytes, version: str, metadata: bytes | None) -> File:
    return File(filename, len(held), hashlib.sha256(held).hexdigest(), version, metadata)


def page(name: str, project: Project, versions: int, files_at: str, *, as_html: bool) -> bytes:
    """Return the page of a project; `files_at` as in `Project`."""
    found = files(name, project, versions)
    start = files_at if project.files_at is None else project.files_at
    if as_html:
        links = (_anchor(each, start, project) for each in found)
        return f"<!DOCTYPE html><html><body>\n{''.join(links)}</body></html>\n".encode()
    return json.dumps(
        {
            "meta": {"api-version": "1.1"},
            "name": name,
            "versions": [each.version for each in found],
            "files": [_described(each, start, project) for each in found],
        }
    ).encode()


def _digest(file: File, project: Project) -> str:
    return hashlib.sha256(b"others").hexdigest() if project.wrong_digest else file.digest


def _described(file: File, start: str, project: Project) -> dict[str, Any]:
    described: dict[str, Any] = {
        "filename": file.name,
        "url": start + file.name,
        "hashes": {"sha256": _digest(file, project)},
        "requires-python": ">=3.9",
        "size": file.size,
        "upload-time": _UPLOADED,
    }
    if file.metadata is not None:
        described["core-metadata"] = {"sha256": hashlib.sha256(file.metadata).hexdigest()}
    return described


def _anchor(file: File, start: str, project: Project) -> str:
    metadata = ""
    if file.metadata is not None:
        metadata = f' data-core-metadata="sha256={hashlib.sha256(file.metadata).hexdigest()}"'
    url = html.escape(f"{start}{file.name}#sha256={_digest(file, project)}")
    return f'<a href="{url}" data-requires-python="&gt;=3.9"{metadata}>{html.escape(file.name)}</a><br>\n'


def blocks(size: int) -> Iterator[bytes]:
    """Yield the bytes of a `streamed` file."""
    for start in range(0, size, len(_MIB)):
        yield _MIB[: size - start]


@functools.lru_cache(16)
def streamed_digest(size: int) -> str:
    """Return the SHA-256 of a `streamed` file."""
    digest = hashlib.sha256()
    for block in blocks(size):
        digest.update(block)
    return digest.hexdigest()
