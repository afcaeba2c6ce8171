"""Archives in the init directory of a serverdir that holds data already, so they are not imported.

Those that this serverdir imported before may stay. For all others there is a notice: an operator expects their import.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from sidecar.core.lifecycle import Notice
from sidecar.core.terminal import printable
from sidecar.exports import sources
from sidecar.features.bootstrap import import_status
from sidecar.features.bootstrap.import_status import ImportState

log = logging.getLogger(__name__)

_SHOWN = 5
"""Maximum names in a message; the rest is counted."""
_WALKED = 10_000
"""Maximum entries of a folder that are compared, at each start, with those of the imported one."""
_NOT_IMPORTED = "not imported, because the serverdir already holds data"
_SILENCE = "remove the archives from DEVPI_INIT_DIR, or set SIDECAR_IGNORE_INIT_FILES=true to silence this notice"
_HINT = f"to import, start on an empty volume; otherwise {_SILENCE}"
_HINT_TO_A_REPLICA = f"a replica imports nothing: {_SILENCE}"


@dataclass(slots=True)
class _Sorted:
    imported: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def notices(init_dir: Path, record: Path, *, replica: bool = False) -> tuple[Notice, ...]:
    """Return notices of what has no effect in `init_dir`. `record`: the file of the last import's status.

    Logs what was imported already.
    """
    found = _found(init_dir, record)
    return tuple(replace(notice, hint=_HINT_TO_A_REPLICA) for notice in found) if replica else found


def _found(init_dir: Path, record: Path) -> tuple[Notice, ...]:
    try:
        found = sources.find(init_dir, deep=False)
    except sources.ImportRefused as error:
        return (_notice([], f"the content of DEVPI_INIT_DIR: {_NOT_IMPORTED} ({error})"),)
    known = _Imported(record)
    of = _Sorted(unused=[each.archive or "" for each in found.not_taken])
    for source in found.sources:
        verdict = known.has(source)
        (of.unknown if verdict is None else of.imported if verdict else of.unused).append(source.name)
    if of.imported:
        log.info("already imported: %s (in %s)", _names(of.imported), init_dir)
    result = []
    if of.unused:
        result.append(_notice(of.unused, _NOT_IMPORTED))
    if of.unknown:
        unsure = "it may differ from the imported archive of the same name"
        why = "another modification time, too many files, or a damaged record"
        result.append(_notice(of.unknown, f"{_NOT_IMPORTED}; {unsure} ({why})"))
    return tuple(result)


def _notice(names: Iterable[str], what: str) -> Notice:
    where = _names(sorted(names))
    return Notice("import", f"{where} in DEVPI_INIT_DIR: {what}" if where else what, _HINT)


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(printable(name, 100) for name in names[:_SHOWN]) + more


class _Imported:
    """What this serverdir has imported, by the record of that."""

    def __init__(self, record: Path) -> None:
        kept = import_status.load(record)
        self._is_known = kept is not None or not os.path.lexists(record)
        self._looks: dict[str, tuple[object, object]] = {}
        self._digests: dict[str, str | None] = {}
        if kept is None or kept[0].state is not ImportState.COMPLETED:
            return
        self._looks = {str(each[0]): (each[1], each[2]) for each in kept[1][2:] if len(each) == 3}
        self._digests = {each.name: each.sha256 for each in kept[0].archives}

    def has(self, source: sources.Source) -> bool | None:
        """Whether it equals what was imported under its name; None: unknown."""
        if not self._is_known:
            return None
        if (before := self._looks.get(source.name)) is None:
            return False
        try:
            if not source.is_directory:
                now: tuple[object, object] | None = (source.bytes, source.mtime_ns)
            elif (index := source.path / "dataindex.json").is_file():
                return _digest(index) == self._digests.get(source.name)
            else:
                now = _look(source)
        except OSError:
            return None
        if now == before:
            return True
        return None if now is None or now[0] == before[0] else False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _look(folder: sources.Source) -> tuple[int, int] | None:
    """Return its bytes and newest modification time, as `sources.find` does; None if that would take too long."""
    size, newest = 0, os.lstat(folder.path).st_mtime_ns
    for number, each in enumerate(itertools.islice(sources.statuses(folder.path), _WALKED + 1)):
        if number == _WALKED:
            return None
        size += each.st_size if stat.S_ISREG(each.st_mode) else 0
        newest = max(newest, each.st_mtime_ns)
    return size, newest
