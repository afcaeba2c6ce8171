"""Run devpi-server by its own `main`, with our plugin and our patches."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from devpi_server.main import Fatal, _main

from sidecar.core.errors import ExitCode
from sidecar.devpi.protocol import Serve
from sidecar.storage.layout import Layout
from sidecar.worker import search_index, unreplicated, wellformed
from sidecar.worker.flags import CHEAP_DERIVATION
from sidecar.worker.patches import mirror, recovery, replica, storage
from sidecar.worker.plugin import SidecarPlugin
from sidecar.worker.upstreams import Upstreams
from sidecar.worker.verification import CannotTell

if TYPE_CHECKING:
    from pluggy import PluginManager

    from sidecar.worker.channel import Channel
    from sidecar.worker.flags import ServerFlags


def serve(request: Serve, flags: ServerFlags, plugins: PluginManager, channel: Channel) -> int:
    """Run devpi-server until it exits. Returns the exit code: 0 after a drain."""
    import waitress

    os.environ["TMPDIR"] = request.tmpdir  # for spooled uploads: on a tmpfs they would count as memory
    tempfile.tempdir = None
    recovery.keep_nodeinfo_whole()
    storage.sync_what_is_acknowledged(plugins)
    upstreams = Upstreams(request.mirror, Layout(Path(flags.serverdir)).mirrors)
    mirror.install(upstreams)
    wellformed.check_json()
    if flags.replica:
        replica.tell_refusals(channel.send)
        unreplicated.report_them()
    recovery.fix_event_serial(flags.serverdir)
    argv = [*flags.argv, "--secretfile", request.secretfile]
    if request.cheap_derivation and not flags.own_derivation:
        argv += CHEAP_DERIVATION
    plugin = SidecarPlugin(request, channel, upstreams, own_derivation=flags.own_derivation)
    plugins.register(plugin, "sidecar")
    search_index.guard(plugins, plugin.notice)
    waitress.serve = plugin.serve
    try:
        result = _main(plugins, argv=argv)
    except Fatal as error:
        return _fatal(str(error), 1)
    except MemoryError:
        return _fatal("not enough memory to start", ExitCode.EXHAUSTED)
    except CannotTell as error:
        return _fatal(f"argon2 can't run, for lack of memory or threads: {error}", ExitCode.EXHAUSTED)
    if plugin.start_error is not None:
        return _fatal(f"waitress can't start: {plugin.start_error}", ExitCode.EXHAUSTED)
    return result if isinstance(result, int) else ExitCode.STOPPED


def _fatal(reason: str, code: int) -> int:
    print(f"fatal: {reason}", file=sys.stderr)  # noqa: T201 - like devpi-server's own main
    return code
