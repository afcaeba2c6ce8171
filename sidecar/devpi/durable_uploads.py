"""Makes devpi-server's acknowledgements last: what it answered 200 to is still there after a power cut.

devpi writes an upload's file without fsync, and SQLite commits by removing its journal without syncing the folder. So
for half a minute the power may take an acknowledged upload back, or leave an empty file in its place.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

from devpi_server.filestore_fs import DirtyFile, FSFactory
from devpi_server.keyfs_sqlite import BaseStorage

from sidecar import durable

if TYPE_CHECKING:
    from sqlite3 import Connection

    from devpi_server.interfaces import ContentOrFile
    from devpi_server.keyfs_types import FilePathInfo


def sync_what_is_acknowledged() -> None:
    """Have devpi sync each new file and its folders before the commit, and the commit itself, from now on."""
    make = FSFactory.from_content

    def from_content(basedir: Path, file_path_info: FilePathInfo, content_or_file: ContentOrFile) -> DirtyFile:
        folder = Path(basedir) / "+files" / Path(file_path_info.relpath).parent
        changed = [folder]
        while not changed[-1].exists():
            changed.append(changed[-1].parent)
        file = cast(DirtyFile, make(basedir, file_path_info, content_or_file))
        descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        for each in changed:
            durable.fsync_dir(each)
        return file

    def pragmas(_storage: BaseStorage, connection: Connection) -> None:
        connection.execute("PRAGMA synchronous=EXTRA")

    FSFactory.from_content = staticmethod(from_content)  # type: ignore[method-assign, assignment]
    BaseStorage._execute_conn_pragmas = pragmas  # type: ignore[method-assign]
