"""Small real wheels and sdists, and large ones, byte for byte the same from the same seed."""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import io
import random
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_DATE = (2026, 11, 22, 12, 0, 0)
_MTIME = 1795348800
_LISTS = (
    *("platform", "supported_platform", "provides", "requires", "obsoletes", "project_urls", "provides_dist"),
    *("obsoletes_dist", "requires_dist", "requires_external", "provides_extras", "dynamic", "license_file"),
)
_TEXTS = ("maintainer", "maintainer_email", "keywords", "download_url", "comment", "license_expression")
_WHEEL = "Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_BACKEND = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'


@dataclass(frozen=True)
class Package:
    """A distribution file."""

    name: str
    version: str
    filename: str
    content: bytes

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def metadata(self) -> dict[str, Any]:
        return metadata(self.name, self.version)


def wheel(name: str, version: str, seed: int, requires: Sequence[str] = ()) -> Package:
    """A wheel of about 4 kB with one module that can be imported, and these dependencies."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    files = {
        f"{name.replace('-', '_')}.py": _module(name, version, seed),
        f"{info}/METADATA": core_metadata(name, version, requires),
        f"{info}/WHEEL": _WHEEL,
    }
    record = "".join(f"{path},sha256={_record_digest(text)},{len(text)}\n" for path, text in files.items())
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path, _DATE), text, zipfile.ZIP_DEFLATED)
    return Package(name, version, f"{stem}-py3-none-any.whl", buffer.getvalue())


def sdist(name: str, version: str, seed: int) -> Package:
    """A `.tar.gz` of about 4 kB, as PEP 625 names it."""
    stem = f"{name.replace('-', '_')}-{version}"
    files = {
        f"{stem}/PKG-INFO": core_metadata(name, version),
        f"{stem}/pyproject.toml": f'{_BACKEND}\n[project]\nname = "{name}"\nversion = "{version}"\n',
        f"{stem}/{name.replace('-', '_')}.py": _module(name, version, seed),
    }
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=_MTIME) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for path, text in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mtime = len(text), _MTIME
            archive.addfile(member, io.BytesIO(text.encode()))
    return Package(name, version, f"{stem}.tar.gz", buffer.getvalue())


def core_metadata(name: str, version: str, requires: Sequence[str] = ()) -> str:
    """METADATA, or PKG-INFO."""
    dependencies = "".join(f"Requires-Dist: {each}\n" for each in requires)
    return (
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: {_summary(name)}\n"
        "Home-page: https://example.org/\nAuthor: Bench\nAuthor-email: bench@example.org\nLicense: MIT\n"
        "Classifier: Programming Language :: Python :: 3\nRequires-Python: >=3.9\n"
        f"{dependencies}Description-Content-Type: text/markdown\n\n{_description(name)}"
    )


def metadata(name: str, version: str) -> dict[str, Any]:
    """The same in the words of devpi's `dataindex.json`."""
    return {
        "name": name,
        "version": version,
        "metadata_version": "2.1",
        "summary": _summary(name),
        "home_page": "https://example.org/",
        "author": "Bench",
        "author_email": "bench@example.org",
        "license": "MIT",
        "description": _description(name),
        "description_content_type": "text/markdown",
        "classifiers": ["Programming Language :: Python :: 3"],
        "requires_python": ">=3.9",
        **{key: [] for key in _LISTS},
        **dict.fromkeys(_TEXTS, ""),
    }


def _summary(name: str) -> str:
    return f"A small package named {name} that devpi is measured with"


def _description(name: str) -> str:
    return f"# {name}\n\n" + "Nothing to see here but a few lines of text, as every README has them.\n" * 8


def _module(name: str, version: str, seed: int) -> str:
    noise = random.Random(f"{seed} {version}").randbytes(2200).hex()
    lines = [noise[start : start + 100] for start in range(0, len(noise), 100)]
    return f'"""{name}"""\n\n__version__ = "{version}"\n\nNOISE = """\n' + "\n".join(lines) + '\n"""\n'


def _record_digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


class Blocks:
    """Random bytes that large wheels share, and their bz2 stream."""

    def __init__(self, seed: int, size: int) -> None:
        self.content = random.Random(seed).randbytes(size)
        self.compressed = bz2.compress(self.content)


@dataclass(frozen=True)
class LargeWheel:
    """A wheel around `Blocks`: the bytes before them and after them."""

    filename: str
    before: bytes
    after: bytes
    size: int
    digest: str


def large_wheel(name: str, version: str, blocks: Blocks) -> LargeWheel:
    """A wheel whose first member is the blocks, stored as they are."""
    stem = f"{name.replace('-', '_')}-{version}"
    member = f"{name.replace('-', '_')}.bin"
    info = f"{stem}.dist-info"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(member, _DATE), blocks.content)
        archive.writestr(zipfile.ZipInfo(f"{info}/METADATA", _DATE), core_metadata(name, version))
        archive.writestr(zipfile.ZipInfo(f"{info}/WHEEL", _DATE), _WHEEL)
        names = (member, f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD")
        archive.writestr(zipfile.ZipInfo(names[-1], _DATE), "".join(f"{each},,\n" for each in names))
    content = buffer.getbuffer()
    start = 30 + len(member)  # the length of a local file header
    before, after = bytes(content[:start]), bytes(content[start + len(blocks.content) :])
    digest = hashlib.sha256(content).hexdigest()
    return LargeWheel(f"{stem}-py3-none-any.whl", before, after, len(content), digest)
