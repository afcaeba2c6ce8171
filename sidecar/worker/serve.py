"""devpi-server itself, run by its own `main`, with our plugin in it and what it needs replaced."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import TYPE_CHECKING

from devpi_server.main import Fatal, _main

from sidecar.core.errors import ExitCode
from sidecar.devpi.protocol import Serve
from sidecar.worker import search_index, unreplicated, wellformed
from sidecar.worker.flags import CHEAP_DERIVATION
from sidecar.worker.patches import recovery, replica, storage, upstream
from sidecar.worker.plugin import SidecarPlugin
from sidecar.worker.verification import CannotTell

if TYPE_CHECKING:
    from pluggy import PluginManager

    from sidecar.worker.channel import Channel
    from sidecar.worker.flags import ServerFlags


def serve(request: Serve, flags: ServerFlags, plugins: PluginManager, channel: Channel) -> int:
    """Run devpi-server until it ends. Returns the exit code: 0 after a drain."""
    import waitress

    os.environ["TMPDIR"] = request.tmpdir  # uploads are spooled there: on a tmpfs they would count as memory
    tempfile.tempdir = None
    recovery.keep_nodeinfo_whole()
    storage.sync_what_is_acknowledged(plugins)
    upstream.keep_failures()
    wellformed.check_json()
    if flags.replica:
        replica.tell_refusals(channel.send)
        unreplicated.report_them()
    recovery.fix_event_serial(flags.serverdir)
    argv = [*flags.argv, "--secretfile", request.secretfile]
    if request.cheap_derivation and not flags.own_derivation:
        argv += CHEAP_DERIVATION
    plugin = SidecarPlugin(request, channel, own_derivation=flags.own_derivation)
    plugins.register(plugin, "sidecar")
    search_index.guard(plugins, plugin.notice)
    waitress.serve = plugin.serve
    try:
        result = _main(plugins, argv=argv)
    except Fatal as error:
        return _fatal(error)
    except MemoryError:
        print("fatal: there is not enough memory to start", file=sys.stderr)  # noqa: T201
        return ExitCode.EXHAUSTED
    except CannotTell as error:
        print(f"fatal: argon2 can't run, for lack of memory or threads: {error}", file=sys.stderr)  # noqa: T201
        return ExitCode.EXHAUSTED
    if plugin.start_error is not None:
        print(f"fatal: waitress can't be started: {plugin.start_error}", file=sys.stderr)  # noqa: T201
        return ExitCode.EXHAUSTED
    return result if isinstance(result, int) else ExitCode.STOPPED


def _fatal(error: Fatal) -> int:
    print(f"fatal: {error}", file=sys.stderr)  # noqa: T201 - as devpi-server's own main does
    return 1
