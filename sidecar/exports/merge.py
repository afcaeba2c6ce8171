"""Merges extracted trees into one verified devpi export, ready for the importer."""

from __future__ import annotations

import graphlib
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from sidecar.core.password_hash import is_checkable
from sidecar.exports.dataindex import Checked, normalized
from sidecar.exports.index_json import parse
from sidecar.exports.members import INDEX_FILE
from sidecar.exports.sources import ImportRefused, Limits, Omissions, Unpacked, shown
from sidecar.exports.tree import Tree

_COMPLETE = (
    "wait until devpi-export has finished, then pack its whole directory: "
    "python3 -m tarfile --create backup.bz2 DIRECTORY"
)
_MERGE = "leave one of them out, or rename or delete it in one devpi-server and export that one again"
_BOOKKEEPING = ("created", "modified")  # times, which differ between any two servers


@dataclass(frozen=True, slots=True)
class Totals:
    """The size of an import; ``projects`` are counted as devpi does, by normalised name and index."""

    users: int
    indexes: int
    projects: int
    files: int
    bytes: int


@dataclass(slots=True)
class Export:
    """All exports as one. Nothing is copied: the importer looks each relpath up in ``files``."""

    data: dict[str, Any]
    """``dumpversion``, ``users`` and ``indexes``, which devpi's importer uses instead of reading a file."""
    files: dict[str, Path]
    """Relpath, as in the data, to its regular file."""
    sizes: dict[str, int]
    """Relpath to bytes."""
    archive_of: dict[str, str]
    """``user/index`` to the archive whose ``dataindex.json`` contains it."""
    totals: Totals

    def root_user(self, is_empty: Callable[[str, str | None], bool]) -> Literal["absent", "empty", "unusable", "set"]:
        """The state of root's password; ``is_empty`` returns whether a pwhash and pwsalt are a hash of "".

        A root without a hash counts as "empty": the import would keep that of the initialisation. "unusable" is a hash
        that devpi-server can't check, so that nobody could log in as root.
        """
        root = self.data["users"].get("root")
        if root is None:
            return "absent"
        pwhash, pwsalt = root.get("pwhash"), root.get("pwsalt")
        if pwhash and not is_checkable(pwhash, pwsalt):
            return "unusable"
        return "empty" if not pwhash or is_empty(pwhash, pwsalt) else "set"

    @property
    def has_root_pypi(self) -> bool:
        """Whether the export has ``root/pypi``; if not, the import needs ``--no-root-pypi``."""
        return "root/pypi" in self.data["indexes"]


def set_root_hash(export: Export, pwhash: str) -> None:
    """Replace the exported password of root; does nothing if the export has no root."""
    root = export.data["users"].get("root")
    if root is not None:
        root["pwhash"] = pwhash
        root.pop("pwsalt", None)


@dataclass(frozen=True, slots=True)
class _Part:
    """An export in ``folder`` of ``tree``."""

    checked: Checked
    tree: Tree
    folder: str


def load(
    trees: Sequence[Unpacked],
    limits: Limits,
    omissions: Omissions,
    *,
    allow_unverified: bool = False,
    root_password_provided: bool = False,
) -> Export:
    """Find, check and merge the exports in these trees. Raises ImportRefused.

    ``root_password_provided``: root's hash will be replaced, so that it may differ between exports.
    ``allow_unverified``: accept release files without a digest. devpi's importer verifies the digests. What can't be
    loaded safely is left out (``omissions``).
    """
    parts: list[_Part] = []
    rests: list[Tree] = []  # trees that can only hold files of another tree's export
    for unpacked in trees:
        tree = Tree(unpacked)
        folders = tree.export_folders()
        for folder in folders:
            member = posixpath.join(folder, INDEX_FILE)
            data = parse(tree.read(member, limits.index_bytes), tree.archive, member)
            parts.append(_Part(Checked(data, tree.archive, member, allow_unverified, omissions), tree, folder))
        if not folders:
            rests.append(tree)
    for rest in rests:
        rest.refuse_state()
    if not parts:
        reason = f"no {INDEX_FILE} found: the export is incomplete, or the wrong folder was packed"
        raise ImportRefused(reason, _COMPLETE, rests[0].archive if len(rests) == 1 else None)
    merged = _Merged(root_password_provided)
    for part in parts:
        merged.add(part.checked)
    _refuse_cycles(merged.indexes, merged.index_of)
    files, sizes = _locate(parts, rests)
    return Export(
        data={"dumpversion": parts[0].checked.data["dumpversion"], "users": merged.users, "indexes": merged.indexes},
        files=files,
        sizes=sizes,
        archive_of={name: export.archive for name, export in merged.index_of.items()},
        totals=Totals(
            users=len(merged.users),
            indexes=len(merged.indexes),
            projects=sum(len({*map(normalized, each.get("projects", {}))}) for each in merged.indexes.values()),
            files=sum(len(each.get("files", [])) for each in merged.indexes.values()),
            bytes=sum(sizes[file["relpath"]] for each in merged.indexes.values() for file in each.get("files", [])),
        ),
    )


class _Merged:
    """The exports so far, as one; refuses conflicts between two of them, naming both."""

    def __init__(self, root_password_provided: bool) -> None:
        self.users: dict[str, Any] = {}
        self.indexes: dict[str, Any] = {}
        self.index_of: dict[str, Checked] = {}
        self._root_password_provided = root_password_provided
        self._user_of: dict[str, Checked] = {}
        self._relpath_of: dict[str, Checked] = {}
        self._first: Checked | None = None

    def add(self, export: Checked) -> None:
        self._first = self._first or export
        if self._first.dumpversion != export.dumpversion:
            versions = f"dumpversion {export.dumpversion} here, {self._first.dumpversion} in"
            self._refuse(versions, export, self._first, "export both with the same devpi-server")
        for name, user in export.data["users"].items():
            self._user(name, user, export)
        for name, index in export.data["indexes"].items():
            self._index(name, index, export)
        for relpath in export.relpaths:
            other = self._relpath_of.setdefault(relpath, export)
            if other is not export:
                self._refuse(f"names the file {shown(relpath)}, as does", export, other)

    def _refuse(self, reason: str, export: Checked, other: Checked, hint: str = _MERGE) -> NoReturn:
        where = "" if other.archive == export.archive else f"{shown(other.archive)}: "
        raise ImportRefused(f"{reason} {where}{other.member}", hint, export.archive, export.member)

    def _user(self, name: str, user: dict[str, Any], export: Checked) -> None:
        first = self.users.setdefault(name, user)
        other = self._user_of.setdefault(name, export)
        if other is export:
            return
        if name == "root":
            secrets = [[each.get(key) for key in ("pwhash", "pwsalt")] for each in (first, user)]
            if secrets[0] != secrets[1] and not self._root_password_provided:
                hint = "set root's password with DEVPI_PASSWORD_FILE (or DEVPI_PASSWORD)"
                self._refuse("root's password hash differs from that in", export, other, hint)
        ignored = (*_BOOKKEEPING, "pwhash", "pwsalt") if name == "root" else _BOOKKEEPING
        settings = [{key: each[key] for key in each if key not in ignored} for each in (first, user)]
        if settings[0] != settings[1]:
            self._refuse(f"the settings of user {shown(name)} differ from those in", export, other)

    def _index(self, name: str, index: dict[str, Any], export: Checked) -> None:
        first = self.indexes.setdefault(name, index)
        other = self.index_of.setdefault(name, export)
        if other is export:
            return
        holds_something = any(each.get(key) for each in (first, index) for key in ("projects", "files"))
        if holds_something or index["indexconfig"]["type"] != "mirror":
            self._refuse(f"index {shown(name)} is also in", export, other)
        if first["indexconfig"] != index["indexconfig"]:
            self._refuse(f"the settings of mirror {shown(name)} differ from those in", export, other)


def _refuse_cycles(indexes: dict[str, Any], index_of: dict[str, Checked]) -> None:
    """Refuse cycles of bases: devpi's IndexTree.iternames() loops forever on an index with one base in a cycle."""
    graph = {
        name: {base for base in index["indexconfig"].get("bases", []) if base in indexes and base != name}
        for name, index in indexes.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        cycle: list[str] = error.args[1]
        where = index_of[cycle[0]]
        reason = f"indexes are bases of each other: {shown(' → '.join(cycle))}"
        raise ImportRefused(reason, "break the cycle and export again", where.archive, where.member) from error


def _locate(parts: Sequence[_Part], rests: Sequence[Tree]) -> tuple[dict[str, Path], dict[str, int]]:
    """Each relpath's file and size, from the export's own folder or from trees without an export."""
    files: dict[str, Path] = {}
    sizes: dict[str, int] = {}
    unused = set(rests)
    held: dict[str, int] = {}  # asking each tree for each file would take files times archives
    for number, rest in enumerate(rests):
        for path in rest.paths():
            held.setdefault(path, number)
    for part in parts:
        for relpath in part.checked.relpaths:
            path = posixpath.normpath(relpath)  # no link is followed, so `..` is the folder before it
            in_folder = posixpath.join(part.folder, path)
            paths = dict.fromkeys((in_folder, path))
            places = [(part.tree, in_folder)]
            places += [(rests[held[p]], p) for p in sorted((p for p in paths if p in held), key=held.__getitem__)]
            for tree, path in places:
                size = tree.size_of(path)
                if size is not None:
                    files[relpath], sizes[relpath] = tree.root / path, size
                    unused.discard(tree)
                    break
            else:
                _ = [rest.size_of(path) for rest in rests for path in paths]  # refuses paths through a link
                hint = "add the archive that contains it, or export again"
                raise ImportRefused("is in dataindex.json, but the file is missing", hint, part.tree.archive, relpath)
    for rest in rests:
        if rest in unused:
            reason = f"contains neither a {INDEX_FILE} nor a file of the other exports"
            raise ImportRefused(reason, f"remove it, or {_COMPLETE}", rest.archive)
    return files, sizes
