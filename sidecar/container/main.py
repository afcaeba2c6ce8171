"""Everything put together: the objects of one container's life, its signals, its port, and its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.container.next_step import NextStep
from sidecar.container.stops import Stops
from sidecar.container.supervisor import Supervisor
from sidecar.core import discovery, disk_hints, garbage, parsers, privacy, surroundings
from sidecar.core import logging as logs
from sidecar.core.errors import Exit, ExitCode
from sidecar.core.journal import Journal, phase_of
from sidecar.core.lifecycle import Failure, Lifecycle, Phase
from sidecar.core.settings import Settings, TlsSettings
from sidecar.core.terminal import printable
from sidecar.devpi.process import Child
from sidecar.devpi.spawn import Spawned
from sidecar.features.credentials.claims import Bootstrap
from sidecar.features.health.monitor import Health
from sidecar.features.health.pace import Pace
from sidecar.storage.runtime_dir import RuntimeDir, RuntimeDirRefused
from sidecar.storage.usage import Usage
from sidecar.web.app import Context, make_app
from sidecar.web.server.site import serve

if TYPE_CHECKING:
    import ssl

log = logging.getLogger(__name__)

_NEEDED_MEMORY = 160 * 2**20
"""Bytes, measured: 60 MiB devpi-server, 40 the sidecar, 64 for one password check (argon2id, at most one at a time)."""


def run(settings: Settings, flags: list[str], spawned: Spawned, stops: Stops) -> int:
    """Live one container's life. Returns its exit code."""
    privacy.undumpable()
    os.umask(0o077)
    lines = logs.configure(settings.log.style, settings.log.level, "sidecar", access=settings.log.access)
    lines.phase = lambda: phase_of(spawned.phase)
    faulthandler.enable()
    garbage.spare()
    try:
        return asyncio.run(_live(settings, flags, spawned, stops))
    except Exit as error:
        log.error("%s; %s", error.reason, error.mend)
        return error.code
    except Exception as error:
        if isinstance(error, MemoryError) or "can't start new thread" in str(error):  # a RuntimeError like any other
            log.critical("the sidecar gets no memory or no thread; raise the limits of both (--memory, --pids-limit)")
            return ExitCode.EXHAUSTED
        log.critical("the sidecar has failed", exc_info=True)
        return ExitCode.INTERNAL
    finally:
        sys.stdout.flush()


async def _live(settings: Settings, flags: list[str], spawned: Spawned, stops: Stops) -> int:
    child = Child(spawned)
    for name in settings.ignored_service_links:
        log.warning("%s is of a Kubernetes service link, and ignored; set enableServiceLinks: false", name)
    if os.geteuid() == 0:
        log.warning(
            "this runs as root, which nothing here needs: run it as another user (docker run: without --user 0)"
        )
    if (limit := _memory_limit()) is not None and limit < _NEEDED_MEMORY:
        log.warning(
            "the memory limit is %d MiB: devpi-server, the sidecar and a password check take %d; expect kills",
            limit >> 20,
            _NEEDED_MEMORY >> 20,
        )
    async with _reaped(child), _certificate(settings) as tls, _runtime_dir(settings) as runtime:
        lifecycle = Lifecycle()
        Journal(lifecycle, spawned.phase)
        health = Health(lifecycle, settings.monitor)
        bootstrap = Bootstrap(lifecycle, settings.credentials.claim_ttl)
        supervisor = Supervisor(settings, flags, child, lifecycle, health, bootstrap, runtime)
        certified = settings.tls.client_ca is not None
        usage = Usage(lifecycle, supervisor.served)
        pace = Pace(lambda: child.requests)
        health.subscribe(pace.look)
        around = surroundings.look(in_kubernetes=settings.in_kubernetes)
        context = Context(
            lifecycle,
            health,
            bootstrap,
            supervisor.tick_age,
            _version(),
            certified,
            child=child,
            usage=usage,
            pace=pace,
            name=settings.name or printable(around.host, parsers.NAME_MAX),
            surroundings=around,
        )
        with _stopping(stops, supervisor):
            async with _listening(settings, context, runtime, tls), _counting(usage):
                try:
                    await supervisor.run()
                except Exit as error:
                    lifecycle.enter(Phase.FAILED, Failure(error.reason, error.mend))
                    raise
                return ExitCode.STOPPED


@contextlib.contextmanager
def _stopping(stops: Stops, supervisor: Supervisor) -> Iterator[None]:
    """A stop is the supervisor's to carry out, until all is done.

    Not by the loop's `add_signal_handler`: the loop takes its handlers away before this process ends, and a second
    signal would kill it.
    """
    loop = asyncio.get_running_loop()
    stops.react = lambda: loop.call_soon_threadsafe(supervisor.stop)
    try:
        yield
    finally:
        stops.ignore()


@contextlib.asynccontextmanager
async def _reaped(child: Child) -> AsyncIterator[None]:
    """Reap every child of this process, and leave none behind."""
    reap = _Reaper(child)
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, reap)
    reap()  # what ended before the handler was there
    try:
        yield
    finally:
        child.signal(signal.SIGKILL)
        await child.exited()


@contextlib.asynccontextmanager
async def _certificate(settings: Settings) -> AsyncIterator[ssl.SSLContext | None]:
    """TLS for the sidecar's port, which follows the files that hold the certificate; None: no TLS."""
    if settings.tls == TlsSettings():
        yield None
        return
    from sidecar.web.server.tls import Tls, TlsRefused

    try:
        tls = Tls(settings.tls)
    except TlsRefused as error:
        raise Exit(ExitCode.SETTINGS, f"{error.variable}: {error.reason}", error.mend) from error
    follower = asyncio.create_task(tls.keep_fresh(), name="follower of the TLS files")
    try:
        yield tls.context
    finally:
        follower.cancel()
        await asyncio.wait({follower})


@contextlib.asynccontextmanager
async def _runtime_dir(settings: Settings) -> AsyncIterator[RuntimeDir]:
    try:
        runtime = RuntimeDir.open(settings.runtime_dir)
    except RuntimeDirRefused as error:
        raise Exit(ExitCode.NOT_WRITABLE, error.reason, error.mend) from error
    try:
        yield runtime
    finally:
        runtime.close()


@contextlib.asynccontextmanager
async def _counting(usage: Usage) -> AsyncIterator[None]:
    task = asyncio.create_task(usage.run(), name="usage")
    try:
        yield
    finally:
        task.cancel()


@contextlib.asynccontextmanager
async def _listening(
    settings: Settings, context: Context, runtime: RuntimeDir, tls: ssl.SSLContext | None
) -> AsyncIterator[None]:
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
            mend = f"{disk_hints.hint(error, 'it')}, or set SIDECAR_RUNTIME_DIR"
            raise Exit(ExitCode.NOT_WRITABLE, reason, mend) from error
        NextStep(context.lifecycle, url)
        log.info("the sidecar listens on %s:%d%s", host, server.port, "" if tls is None else ", with TLS")
        yield
    finally:
        await server.stop()


class _Reaper:
    """Reaps every child of this process: its own, and as PID 1 whoever is left behind by others."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def __call__(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._child.pid:
                self._child.reaped(status)


def _memory_limit() -> int | None:
    """The memory limit of this process's cgroup in bytes, as a container sees it; None: there is none, or no cgroup."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            return int(Path(path).read_text())
    return None


def _version() -> str:
    try:
        return version("devpi-sidecar")
    except PackageNotFoundError:
        return "unknown"
