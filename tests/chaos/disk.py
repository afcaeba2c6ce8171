"""What is on the disk after a power cut at a step of a recorded life, in the worst cases that POSIX allows.

Each file has the content that processes see, and the content of its last fsync; each directory has the names that
processes see, and those of its last fsync. A rename is atomic, also between two directories, as on every file system
with a journal; a file's fsync brings its content to disk, but not its name.
"""

from __future__ import annotations

import hashlib
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.steps import Op, Step

VARIANTS = ("everything", "synced", "names", "contents", "mixed")
"""What reached the disk: everything; only what was synced; all names, but only synced contents (a renamed file is
empty); all contents, but only synced names; or a random part of what was not synced."""


@dataclass(eq=False)
class File:
    """One file."""

    seen: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    waiting: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Writes since the last fsync, by offset; None: a truncation to that length."""

    def write(self, offset: int, data: bytes | None) -> None:
        _put(self.seen, offset, data)
        self.waiting.append((offset, data))

    def sync(self) -> None:
        self.synced = bytes(self.seen)
        self.waiting.clear()


@dataclass(eq=False)
class Change:
    """One name of a directory that changed, and is not on disk yet."""

    folder: Folder
    name: str
    node: Node | None
    twin: Change | None = None
    """The other half of a rename."""

    def sync(self) -> None:
        if self not in self.folder.waiting:
            return
        for earlier in list(self.folder.waiting):  # changes of one name keep their order
            if earlier is self:
                break
            if earlier.name == self.name:
                earlier.sync()
        self.folder.waiting.remove(self)
        _name(self.folder.synced, self.name, self.node)
        if self.twin is not None:
            self.twin.sync()


@dataclass(eq=False)
class Folder:
    """One directory."""

    seen: dict[str, Node] = field(default_factory=dict)
    synced: dict[str, Node] = field(default_factory=dict)
    waiting: list[Change] = field(default_factory=list)

    def change(self, name: str, node: Node | None) -> Change:
        _name(self.seen, name, node)
        self.waiting.append(Change(self, name, node))
        return self.waiting[-1]

    def sync(self) -> None:
        for change in list(self.waiting):
            change.sync()


Node = File | Folder


class NotUnderstood(Exception):
    """The recording contains something that can't be replayed."""


class Disk:
    """A directory with its contents, as processes see it, and as it is on disk."""

    def __init__(self, root: Path, content: Path | None = None) -> None:
        """`root`: where the recorded steps happened; `content`: what was there and on disk before."""
        self._root = root
        self._top = Folder()
        self._nodes: list[Node] = [self._top]
        if content is not None:
            for path in sorted(content.rglob("*")):
                node: Node = Folder() if path.is_dir() else File(bytearray(path.read_bytes()))
                self._add(root / path.relative_to(content), node)
            self._sync_all()

    def apply(self, step: Step) -> None:
        """Replay one step. Raises NotUnderstood."""
        path = step.path
        match step.op:
            case Op.CREATE | Op.MKDIR:
                if path != self._root:
                    self._add(path, File() if step.op is Op.CREATE else Folder())
            case Op.WRITE | Op.TRUNCATE:
                self._file(path).write(step.offset, step.data if step.op is Op.WRITE else None)
            case Op.FSYNC:
                self._node(path).sync()
            case Op.SYNCFS:
                self._sync_all()
            case Op.UNLINK | Op.RMDIR:
                self._folder(path.parent).change(path.name, None)
            case Op.RENAME:
                node = self._node(path)
                gone = self._folder(path.parent).change(path.name, None)
                come = self._folder(step.other.parent).change(step.other.name, node)
                gone.twin, come.twin = come, gone
            case Op.LINK:
                self._folder(step.other.parent).change(step.other.name, self._node(path))
            case Op.CHMOD:
                pass  # every file is created for its owner alone
            case _:
                raise NotUnderstood(step.name)

    def after_power_cut(self, variant: str, chance: random.Random) -> dict[str, bytes | None]:
        """Return the contents after a power cut by relative path, None for a directory."""
        found: dict[str, bytes | None] = {}
        if variant == "mixed":
            self._collect_mixed(self._top, "", found, chance)
        else:
            self._collect(
                self._top, "", found, variant in ("everything", "names"), variant in ("everything", "contents")
            )
        return found

    def _collect(
        self, folder: Folder, at: str, found: dict[str, bytes | None], all_names: bool, all_contents: bool
    ) -> None:
        for name, node in (folder.seen if all_names else folder.synced).items():
            if isinstance(node, Folder):
                found[at + name] = None
                self._collect(node, f"{at}{name}/", found, all_names, all_contents)
            else:
                found[at + name] = bytes(node.seen) if all_contents else node.synced

    def _collect_mixed(self, folder: Folder, at: str, found: dict[str, bytes | None], chance: random.Random) -> None:
        names = dict(folder.synced)
        reached = folder.waiting[: chance.randint(0, len(folder.waiting))]
        for change in reached:
            if change.twin is None or change.twin in reached:  # a rename is on disk completely, or not at all
                _name(names, change.name, change.node)
        for name, node in names.items():
            if isinstance(node, Folder):
                found[at + name] = None
                self._collect_mixed(node, f"{at}{name}/", found, chance)
            else:
                content = bytearray(node.synced)
                for offset, data in node.waiting:  # the disk may write in any order
                    if chance.random() < 0.5:
                        _put(content, offset, data)
                found[at + name] = bytes(content)

    def _add(self, path: Path, node: Node) -> None:
        self._nodes.append(node)
        self._folder(path.parent).change(path.name, node)

    def _sync_all(self) -> None:
        for node in self._nodes:
            node.sync()

    def _node(self, path: Path) -> Node:
        node: Node = self._top
        for name in path.relative_to(self._root).parts:
            if not isinstance(node, Folder) or name not in node.seen:
                raise NotUnderstood(f"{path} was never created")
            node = node.seen[name]
        return node

    def _folder(self, path: Path) -> Folder:
        node = self._node(path)
        assert isinstance(node, Folder), path
        return node

    def _file(self, path: Path) -> File:
        node = self._node(path)
        assert isinstance(node, File), path
        return node


def _name(names: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


def _put(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
    content.extend(bytes(max(0, offset - len(content))))
    if data is not None:
        content[offset : offset + len(data)] = data


def write(found: dict[str, bytes | None], into: Path) -> None:
    """Create what `after_power_cut` returned."""
    into.mkdir(mode=0o700, parents=True)
    for name, content in found.items():
        path = into / name
        if content is None:
            path.mkdir(mode=0o700)
        else:
            path.write_bytes(content)
            path.chmod(0o600)


def digest(found: dict[str, bytes | None]) -> str:
    """Return a digest of a state, so that no state is checked twice."""
    known = hashlib.sha256()
    for name, content in sorted(found.items()):
        known.update(f"{name}\0{-1 if content is None else len(content)}\0".encode() + (content or b""))
    return known.hexdigest()


def real(directory: Path) -> dict[str, bytes | None]:
    """Return a real directory in the same form."""
    return {
        os.fspath(path.relative_to(directory)): None if path.is_dir() else path.read_bytes()
        for path in sorted(directory.rglob("*"))
    }
