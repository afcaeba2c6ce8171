"""What a container has for its whole life, as context managers: reaping, TLS, runtime directory, port."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from sidecar.container.next_step import NextStep
from sidecar.container.processes import Processes
from sidecar.core import discovery, disk_hints
from sidecar.core.errors import Exit, ExitCode
from sidecar.core.settings import Settings, TlsSettings
from sidecar.features.credentials.keeper import Credentials
from sidecar.storage.runtime_dir import RuntimeDir, RuntimeDirRefused
from sidecar.web.app import Context, make_app
from sidecar.web.server.site import serve

if TYPE_CHECKING:
    import ssl

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def reaped(processes: Processes) -> AsyncIterator[None]:
    """Reap every child of this process, and kill devpi-server's at the end."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, processes.reap)
    processes.reap()  # those that exited before the handler existed
    try:
        yield
    finally:
        await processes.end_all()


@contextlib.asynccontextmanager
async def certificate(settings: Settings) -> AsyncIterator[ssl.SSLContext | None]:
    """TLS for the sidecar's port, reloaded when the certificate's files change; None: no TLS. Raises Exit."""
    if settings.tls == TlsSettings():
        yield None
        return
    from sidecar.web.server.tls import Tls, TlsRefused

    try:
        tls = Tls(settings.tls)
    except TlsRefused as error:
        raise Exit(ExitCode.SETTINGS, f"{error.variable}: {error.reason}", error.hint) from error
    follower = asyncio.create_task(tls.keep_fresh(), name="follower of the TLS files")
    try:
        yield tls.context
    finally:
        follower.cancel()
        await asyncio.wait({follower})


@contextlib.asynccontextmanager
async def runtime_dir(settings: Settings) -> AsyncIterator[RuntimeDir]:
    """The runtime directory, private and empty; emptied again at the end. Raises Exit."""
    try:
        runtime = RuntimeDir.open(settings.runtime_dir)
    except RuntimeDirRefused as error:
        raise Exit(ExitCode.NOT_WRITABLE, error.reason, error.hint) from error
    try:
        yield runtime
    finally:
        runtime.close()


@contextlib.asynccontextmanager
async def listening(
    settings: Settings, context: Context, runtime: RuntimeDir, tls: ssl.SSLContext | None
) -> AsyncIterator[None]:
    """The sidecar's port, and the files by which the command `sidecar` finds it. Raises Exit."""
    host, port = settings.listen.host, settings.listen.port
    local = None if tls is None else runtime.path / discovery.SOCKET
    try:
        server = await serve(make_app(context), host, port, tls=tls, local=local)
    except OSError as error:
        hint = "free the port, or set SIDECAR_HOST and SIDECAR_PORT"
        if error.errno == errno.EAFNOSUPPORT:
            hint = "this machine has no IPv6: set SIDECAR_HOST=0.0.0.0"
        reason = f"the sidecar can't listen on {host}:{port}: {error.strerror or error}"
        raise Exit(ExitCode.PORT_IN_USE, reason, hint) from error
    try:
        try:
            url = runtime.write_state(host, server.port, tls=tls is not None)
        except OSError as error:
            reason = f"the runtime directory can't be written to: {error.strerror}"
            hint = f"{disk_hints.hint_to_write(error, 'it')}, or set SIDECAR_RUNTIME_DIR"
            raise Exit(ExitCode.NOT_WRITABLE, reason, hint) from error
        NextStep(context.lifecycle, context.of(Credentials), url)
        log.info("the sidecar listens on %s:%d%s", host, server.port, "" if tls is None else ", with TLS")
        yield
    finally:
        await server.stop()
