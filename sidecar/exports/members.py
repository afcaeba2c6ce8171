"""Allowed members of a tar: files, folders, and hard links to earlier files."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Sequence

from sidecar.exports.sources import shown

INDEX_FILE = "dataindex.json"
_PACK = "tar {option}-cjf backup.bz2 -C EXPORT_DIRECTORY ."
PACK_FROM_INSIDE = "pack it from inside its folder: " + _PACK.format(option="")
PACK_LINKED_FILES = "pack the files themselves: " + _PACK.format(option="--dereference ")
PACK_EACH_FILE = "pack each file whole: " + _PACK.format(option="--hard-dereference ")
PACK_HOLES = "pack it without --sparse (-S): " + _PACK.format(option="")
PACK_NEW = "pack into a new archive instead of adding to one (tar -r, -u): " + _PACK.format(option="")
DELETE_IT = "delete it from the export, which does not need it, and pack again: " + _PACK.format(option="")
_REFUSED = {
    tarfile.SYMTYPE: ("a symbolic link", PACK_LINKED_FILES),
    tarfile.CHRTYPE: ("a device", DELETE_IT),
    tarfile.BLKTYPE: ("a device", DELETE_IT),
    tarfile.FIFOTYPE: ("a named pipe", DELETE_IT),
    tarfile.GNUTYPE_SPARSE: ("a sparse file", PACK_HOLES),
    tarfile.CONTTYPE: ("a contiguous file", PACK_NEW),
}


def refusal(kind: bytes) -> tuple[str, str]:
    """The description of a member of an unsupported type, and the hint."""
    return _REFUSED.get(kind, (f"of an unknown type, {shown(kind)}", PACK_NEW))


def leads_out(name: str) -> str | None:
    """How a member's name leads out of the target folder; None: it does not."""
    if name.startswith("/"):
        return "has an absolute path"
    if ".." in name.split("/"):
        return "has a path with '..'"
    return None


def is_index(name: str) -> bool:
    """Whether this is the name of a `dataindex.json` in any folder."""
    return [part for part in name.split("/") if part not in ("", ".")][-1:] == [INDEX_FILE]


class Completed:
    """The names of the regular members that an archive has completed so far.

    Hard links may only lead to these: the file system could contain files of somebody else. Each name, of up to
    4096 bytes, is kept as 8 bytes, hashed with a key that no archive can know: there may be a million of them.
    """

    def __init__(self) -> None:
        self._key = os.urandom(16)
        self._names: set[int] = set()

    def add(self, parts: Sequence[str]) -> None:
        """Add a completed regular member."""
        self._names.add(self._hash(parts))

    def __contains__(self, parts: Sequence[str]) -> bool:
        """Whether the archive has completed a member of this name."""
        return self._hash(parts) in self._names

    def _hash(self, parts: Sequence[str]) -> int:
        name = "/".join(parts).encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=8, key=self._key).digest())
