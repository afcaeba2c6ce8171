"""What a member of a tar may be: a file, a folder, or a hard link to a file that came before it."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence

from sidecar.archives import shown

INDEX_FILE = "dataindex.json"
_PACK = "tar {option}-cjf backup.bz2 -C EXPORT_DIRECTORY ."
PACK_FROM_INSIDE = "pack it from inside its folder: " + _PACK.format(option="")
PACK_LINKED_FILES = "pack the files themselves: " + _PACK.format(option="--dereference ")
PACK_EACH_FILE = "pack each file whole: " + _PACK.format(option="--hard-dereference ")
PACK_HOLES = "pack it without --sparse (-S): " + _PACK.format(option="")
PACK_ANEW = "pack into a new archive instead of adding to one (tar -r, -u): " + _PACK.format(option="")
DELETE_IT = "delete it from the export, which needs none, and pack again: " + _PACK.format(option="")
_REFUSED = {
    tarfile.SYMTYPE: ("a symbolic link", PACK_LINKED_FILES),
    tarfile.CHRTYPE: ("a device", DELETE_IT),
    tarfile.BLKTYPE: ("a device", DELETE_IT),
    tarfile.FIFOTYPE: ("a named pipe", DELETE_IT),
    tarfile.GNUTYPE_SPARSE: ("a sparse file", PACK_HOLES),
    tarfile.CONTTYPE: ("a contiguous file", PACK_ANEW),
}


def refusal(kind: bytes) -> tuple[str, str]:
    """What a member of a type that no import takes is, and the hint."""
    return _REFUSED.get(kind, (f"of an unknown type, {shown(kind)}", PACK_ANEW))


def leads_out(name: str) -> str | None:
    """How a member's name leads out of the folder that it is unpacked into; None: it does not."""
    if name.startswith("/"):
        return "has an absolute path"
    if ".." in name.split("/"):
        return "has a path with '..'"
    return None


def is_index(name: str) -> bool:
    """Whether this is the name of a `dataindex.json`, wherever it lies."""
    return name.rstrip("/").rpartition("/")[2] == INDEX_FILE


class Completed:
    """The regular members that an archive has completed so far, by name, with their bytes.

    Hard links lead to these and to nothing else: a look at the file system could find what somebody else has put there.
    """

    def __init__(self) -> None:
        self._bytes: dict[str, int] = {}

    def add(self, parts: Sequence[str], size: int) -> None:
        """A regular member is whole."""
        self._bytes["/".join(parts)] = size

    def bytes_of(self, parts: Sequence[str]) -> int | None:
        """The size of such a member; None where the archive has completed none of this name."""
        return self._bytes.get("/".join(parts))
