"""What devpi-server leaves or loses in its serverdir when it is killed or the power fails, and does not repair itself.

Every upload is written to a file of its own in `+files`, committed to the database, and then renamed. At its start
devpi finishes the renames of the last transaction alone; what was never committed it leaves for ever.
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
"""How devpi_server.filestore_fs ends the name of a file that is not committed yet."""


def keep_nodeinfo_whole() -> None:
    """Have devpi replace `.nodeinfo` durably, and only where it changes.

    It writes it anew at every start, and each of its tools does, without fsync: killed there it leaves a file beside
    it, and after a power cut there may be an empty one, with which no devpi-server starts any more.
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
    """Remove an `.event_serial` that holds no number: devpi-server, which replaces it without fsync, would not start.

    Without it all events are handled again, which they may be.
    """
    path = serverdir / ".event_serial"
    try:
        int(path.read_bytes())
    except FileNotFoundError:
        pass
    except ValueError:
        log.warning("a power cut has emptied devpi-server's .event_serial: it handles all its events again")
        files.remove(path)


def clear_uploads(xom: XOM) -> None:
    """Finish uploads that were committed, and remove the others. Nobody may be uploading meanwhile."""
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
        log.warning("after a kill: finished %d committed uploads, removed %d that were not", finished, removed)


def _is_committed(xom: XOM, unfinished: Path, target: Path, root: Path) -> bool:
    """Whether the database has a file at `target` that is missing, and `unfinished` is that one, by its digest."""
    if target.exists():
        return False
    with xom.keyfs.read_transaction():
        entry = xom.filestore.get_file_entry(RelPath(str(target.relative_to(root))))
        if entry is None or not (entry.last_modified and entry.hashes):
            return False
        with unfinished.open("rb") as file:
            return entry.validate(file) is None
