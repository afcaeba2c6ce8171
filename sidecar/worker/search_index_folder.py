"""The folder of devpi-web's search index: check it for damage, and move it aside."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from sidecar.core.terminal import printable

if TYPE_CHECKING:
    from whoosh.reading import IndexReader

P = ParamSpec("P")
R = TypeVar("R")

_TRIES, _MOMENT = 10, 0.02
"""How often the index is opened while commits replace it, and the seconds between."""
_NAME = "project"
"""The only index in devpi-web's folder."""
LASTING = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EEXIST}
"""Permanent errors of a file, unlike a lack of space, memory or descriptors, or a disk's errors."""
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOT_OURS_TO_RENAME = {errno.EACCES, errno.EPERM, errno.EBUSY, errno.EXDEV, errno.EROFS}


def patient(opening: Callable[P, R]) -> Callable[P, R]:
    """Wrap a function that opens the index: a commit may remove a file between its listing and its reading.

    devpi-web takes that for a missing index, and creates an empty one in its place.
    """

    def wrapped(*arguments: P.args, **options: P.kwargs) -> R:
        for _ in range(_TRIES):
            try:
                return opening(*arguments, **options)
            except FileNotFoundError:
                time.sleep(_MOMENT)
        return opening(*arguments, **options)

    return wrapped


def damage_of(folder: Path, failure: OSError | None) -> str | None:
    """Return why the index in `folder` can't be used; None if it can, or if that can't be determined.

    Reads all of it, unless `failure`, an earlier error, is proof enough. No other thread may write it meanwhile.
    """
    from whoosh.index import open_dir

    if failure is not None and failure.errno in LASTING and _lies_in(folder, failure):
        return described(failure)
    try:
        with open_dir(str(folder), indexname=_NAME).reader() as reader:
            _read(reader)
    except OSError as error:
        lasting = error.errno in {errno.ENOENT, *LASTING} and _lies_in(folder, error)
        return described(error) if lasting else None
    except MemoryError:
        return None
    except Exception as error:
        return described(error)
    return None


def _read(reader: IndexReader) -> None:
    """Read everything that searching, writing and merging read."""
    scorable = [name for name, field in reader.schema.items() if field.scorable]
    columns = [reader.column_reader(name) for name in reader.schema.names() if reader.has_column(name)]
    for number, _ in reader.iter_docs():
        for column in columns:
            column[number]
        if None in [reader.doc_field_length(number, name) for name in scorable]:
            raise ValueError("a length is missing")
    for field, text in reader.all_terms():
        reader.term_info(field, text)
        matcher = reader.postings(field, text)
        while matcher.is_active():
            matcher.weight()
            matcher.next()


def _lies_in(folder: Path, error: OSError) -> bool:
    at_fault = Path(str(error.filename))
    return folder in (at_fault, *at_fault.parents)


def set_aside(folder: Path) -> Path | None:
    """Move an index aside and recreate its folder. Returns where the old index is; None if it was not kept.

    Removes an index that was moved aside before, and also this one if the new one needs its space. May be killed at any
    time: devpi-web creates what is missing. Raises OSError.
    """
    if folder.is_dir():
        folder = folder.resolve()
    aside = folder.with_name(f"{folder.name}.damaged")
    try:
        _remove(aside)
        folder.rename(aside)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in _NOT_OURS_TO_RENAME or not folder.is_dir():
            raise
        aside = folder / ".damaged"  # the folder is a mount, or its parent is not writable
        _remove(aside)
        aside.mkdir(mode=0o700)
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.suffix != ".toc"):  # .toc makes it an index
            if entry != aside:
                entry.rename(aside / entry.name)
    folder.mkdir(mode=0o700, exist_ok=True)
    with suppress(OSError):
        if shutil.disk_usage(folder).free < sum(entry.lstat().st_size for entry in aside.rglob("*")):
            _remove(aside)
    return aside if aside.is_symlink() or aside.exists() else None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def described(error: Exception) -> str:
    """Return the error in one line, with only a file's name instead of its path, because this is public."""
    if isinstance(error, OSError) and error.strerror:
        name = "" if error.filename is None or error.errno in _FULL else f": {Path(str(error.filename)).name}"
        return printable(f"{error.strerror}{name}", 200)
    return printable(f"{type(error).__name__}: {error}", 200)
