"""Make a state directory by `devpi-init` or by an import of exports, in a fork of the worker.

It writes only to the target and the scratch folder; both are thrown away unless the answer is `Prepared`.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.core import files
from sidecar.core.disk_hints import hint_to_write
from sidecar.devpi.protocol import Import, Initialise, Prepared, PrepareFailed
from sidecar.exports.sources import ImportRefused
from sidecar.worker.passwords import digest, hash_of
from sidecar.worker.patches import staged_storage, table
from sidecar.worker.verification import CannotTell

if TYPE_CHECKING:
    from pluggy import PluginManager

    from sidecar.worker.channel import Channel
    from sidecar.worker.flags import ServerFlags

RESTART = "fix the cause, and start again"


def prepare(
    request: Initialise | Import, flags: ServerFlags, plugins: PluginManager, channel: Channel
) -> Prepared | PrepareFailed:
    """Make the state that `request` asks for, and sync it to disk. Raises `table.Unknown`."""
    table.require("prepare", "init" if isinstance(request, Initialise) else "import")
    since = os.open(Path(request.target).parent, os.O_RDONLY | os.O_CLOEXEC)  # before the first write
    os.environ.pop("DEVPISERVER_NO_ROOT_PYPI", None)  # already read; an import would drop the export's root/pypi
    staged_storage.without_patience(plugins)
    try:
        if isinstance(request, Initialise):
            answer = _initialise(request, flags, plugins)
        else:
            from sidecar.worker import load

            answer = load.import_exports(request, flags, plugins, channel)
        files.sync_file_system(since)
    except ImportRefused as error:
        return PrepareFailed(error.reason, error.hint, error.archive, error.member, error.retryable)
    except MemoryError:
        hint = "raise the memory limit, and start again"
        return PrepareFailed("not enough memory", hint, retryable=True, exhausted=True)
    except CannotTell as error:
        hint = "raise the limit of memory or of processes, and start again"
        reason = f"argon2 can't run: {error}"
        return PrepareFailed(reason, hint, retryable=True, exhausted=True)
    except OSError as error:
        return _of_the_disk(error)
    except SystemExit:
        return PrepareFailed("devpi-server failed; its error is in the log above", RESTART)
    except Exception as error:
        if (of_the_disk := staged_storage.disk_error(error)) is not None:
            return _of_the_disk(of_the_disk)
        logging.getLogger("sidecar").exception("the preparation failed")
        return PrepareFailed(f"devpi-server failed with {type(error).__name__}", "see the traceback in the log")
    finally:
        os.close(since)
        sys.stdout.flush()
        sys.stderr.flush()
    return answer


def _initialise(request: Initialise, flags: ServerFlags, plugins: PluginManager) -> Prepared | PrepareFailed:
    from devpi_server.init import init

    argv = ["devpi-init", "--serverdir", request.target, *flags.tool_flags]
    if flags.replica:
        argv += ["--role", "replica", "--primary-url", flags.primary_url or ""]
        root_hash = None
    else:
        root_hash = hash_of(request.password)
        argv += ["--root-passwd-hash", root_hash]
    if flags.no_root_pypi:
        argv.append("--no-root-pypi")
    if init(pluginmanager=plugins, argv=argv) != 0:
        return PrepareFailed("devpi-init failed; its error is in the log above", RESTART)
    return Prepared("none" if root_hash is None else "password", None if root_hash is None else digest(root_hash))


def _of_the_disk(error: OSError) -> PrepareFailed:
    """Return the failure for an error of the volume: a retry may succeed."""
    what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or type(error).__name__
    hint = hint_to_write(error).removesuffix(" and start again").removesuffix(",") + ", and start again"
    return PrepareFailed(f"{what} while writing the new state", hint, retryable=True)
