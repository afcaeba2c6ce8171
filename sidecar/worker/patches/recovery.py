"""Repair what devpi-server doesn't repair in its serverdir after a kill or a power cut.

devpi writes each upload to a temporary file in `+files`, commits it to the database, then renames the file. At start-up
it finishes only the renames of the last transaction, and never removes uncommitted files.
"""

from __future__ import annotations

import json
import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from devpi_server.config import Config
from devpi_server.keyfs_types import RelPath

from sidecar.core import files

if TYPE_CHECKING:
    from devpi_server.main import XOM

log = logging.getLogger("sidecar")

_UNFINISHED = re.compile(r"-[0-9a-f]{64}-tmp")
"""The suffix of an uncommitted file's name in devpi_server.filestore_fs."""


def keep_nodeinfo_whole() -> None:
    """Make devpi replace `.nodeinfo` durably, and only if it changes.

    devpi-server and its tools rewrite it at each start without fsync. A kill leaves a temporary file; a power cut can
    leave an empty `.nodeinfo`, with which devpi-server doesn't start.
    """

    def write(config: Config) -> None:
        content = json.dumps(config.nodeinfo, indent=2).encode()
        path = Path(config.nodeinfo_path)
        with suppress(OSError):
            if path.read_bytes() == content:
                return
        path.parent.mkdir(parents=True, exist_ok=True)  # as devpi does
        files.write_file(path, content)

    Config.write_nodeinfo = write  # type: ignore[method-assign, assignment]


def fix_event_serial(serverdir: Path) -> None:
    """Remove an `.event_serial` without a number in it, because devpi-server doesn't start with it.

    devpi-server replaces it without fsync. Without the file it handles all events again, which is safe.
    """
    path = serverdir / ".event_serial"
    try:
        int(path.read_bytes())
    except FileNotFoundError:
        pass
    except ValueError:
        log.warning("removed devpi-server's .event_serial, damaged by a power cut: devpi handles all events again")
        files.remove(path)


def clear_uploads(xom: XOM) -> None:
    """Finish committed uploads, and remove uncommitted ones. No upload may run meanwhile."""
    root = Path(xom.config.server_path) / "+files"
    finished = removed = 0
    for folder, _, names in os.walk(root):
        for name in names:
            if match := _UNFINISHED.search(name):
                unfinished = Path(folder, name)
                if _is_committed(xom, unfinished, target := Path(folder, name[: match.start()]), root):
                    unfinished.replace(target)
                    finished += 1
                else:
                    unfinished.unlink()
                    removed += 1
    if finished or removed:
        log.warning("after a kill: finished %d committed uploads, removed %d uncommitted ones", finished, removed)


def _is_committed(xom: XOM, unfinished: Path, target: Path, root: Path) -> bool:
    """Whether `target` is missing, and `unfinished` has the digest that the database has for it."""
    if target.exists():
        return False
    with xom.keyfs.read_transaction():
        entry = xom.filestore.get_file_entry(RelPath(str(target.relative_to(root))))
        if entry is None or not (entry.last_modified and entry.hashes):
            return False
        with unfinished.open("rb") as file:
            return entry.validate(file) is None
