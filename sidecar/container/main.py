"""One container's life: create its objects, run `boot`, `supervisor` and `shutdown`, return the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

from sidecar.container.boot import Boot
from sidecar.container.features import Features, features
from sidecar.container.processes import Processes
from sidecar.container.resources import certificate, listening, reaped, runtime_dir
from sidecar.container.shutdown import Shutdown
from sidecar.container.stops import Stops
from sidecar.container.supervisor import Supervisor
from sidecar.core import garbage, parsers, privacy, surroundings
from sidecar.core import logging as logs
from sidecar.core.board import Board
from sidecar.core.disk_hints import hint_to_write
from sidecar.core.errors import Exit, ExitCode
from sidecar.core.feature import one_of
from sidecar.core.journal import Journal, phase_of
from sidecar.core.lifecycle import Failure, Lifecycle, Notice, Phase
from sidecar.core.settings import Settings
from sidecar.core.terminal import printable
from sidecar.devpi.process import ChildEnded
from sidecar.devpi.protocol import Message, Noticed
from sidecar.devpi.spawn import Spawned
from sidecar.features.bootstrap.initial_state import ImportFailed
from sidecar.features.health.monitor import Health
from sidecar.web.app import Context

log = logging.getLogger(__name__)

_NEEDED_MEMORY = 160 * 2**20
"""Bytes, measured: 60 MiB devpi-server, 40 the sidecar, 64 for a password check (argon2id, at most one at a time)."""
_TICK = 1.0
"""Seconds between two ticks. `/livez` fails when they stop."""


def run(settings: Settings, flags: list[str], spawned: Spawned, stops: Stops, spawn: Callable[[], Spawned]) -> int:
    """Run one container's life and return its exit code.

    `spawned` is the process that becomes devpi-server; `spawn` starts its replacement.
    """
    privacy.undumpable()
    os.umask(0o077)
    lines = logs.configure(settings.log.style, settings.log.level, "sidecar", access=settings.log.access)
    lines.phase = lambda: phase_of(spawned.phase)
    faulthandler.enable()
    garbage.spare()
    try:
        return asyncio.run(_live(settings, flags, spawned, stops, spawn))
    except Exit as error:
        log.error("%s; %s", error.reason, error.hint)
        return error.code
    except Exception as error:
        if isinstance(error, MemoryError) or "can't start new thread" in str(error):  # a plain RuntimeError
            log.critical("the sidecar is out of memory or threads; raise both limits (--memory, --pids-limit)")
            return ExitCode.EXHAUSTED
        log.critical("the sidecar has failed", exc_info=True)
        return ExitCode.INTERNAL
    finally:
        sys.stdout.flush()


async def _live(
    settings: Settings, flags: list[str], spawned: Spawned, stops: Stops, spawn: Callable[[], Spawned]
) -> int:
    _warn_of_surroundings(settings)
    lifecycle, board = Lifecycle(), Board()
    Journal(lifecycle, spawned.phase)
    messages = Messages(lifecycle)
    processes = Processes(spawned, spawn, messages)
    async with reaped(processes), certificate(settings) as tls, runtime_dir(settings) as runtime:
        all_features = messages.features = features(settings, lifecycle, board, runtime)
        life = Life(settings, flags, lifecycle, all_features, processes)
        around = surroundings.look(in_kubernetes=settings.in_kubernetes)
        context = Context(
            lifecycle,
            board,
            all_features,
            life.tick_age,
            _version(),
            settings.tls.client_ca is not None,
            child=lambda: processes.child,
            name=settings.name or printable(around.host, parsers.NAME_MAX),
            surroundings=around,
        )
        with _stopping(stops, life):
            async with listening(settings, context, runtime, tls):
                try:
                    await life.run()
                except Exit as error:
                    lifecycle.enter(Phase.FAILED, Failure(error.reason, error.hint))
                    raise
                return ExitCode.STOPPED


class Life:
    """Boot, serving and shutdown, and the tasks that run for all of that time."""

    def __init__(
        self, settings: Settings, flags: list[str], lifecycle: Lifecycle, features: Features, processes: Processes
    ) -> None:
        health = one_of(features, Health)
        self._features = features
        self._processes = processes
        self._boot = Boot(settings, flags, lifecycle, features)
        self.supervisor = Supervisor(settings.stop, lifecycle, features, health, self._boot, processes)
        self._shutdown = Shutdown(settings.stop, lifecycle, features, self._boot, processes, self.supervisor)
        self._ticked = time.monotonic()

    def stop(self) -> None:
        """Request a clean stop; a second request cuts it short."""
        self._shutdown.ask()

    def tick_age(self) -> float:
        """Seconds since the last tick."""
        return time.monotonic() - self._ticked

    async def run(self) -> None:
        """Return after a requested stop. Raises Exit for every other end."""
        story = asyncio.create_task(self._story(), name="story")
        stop = asyncio.create_task(self._shutdown.asked(), name="stop")
        eternal = [
            asyncio.create_task(self._processes.run(), name="listener to devpi-server"),
            asyncio.create_task(self._tick(), name="tick"),
            *(asyncio.create_task(feature.run(), name=feature.name) for feature in self._features),
        ]
        tasks: list[asyncio.Task[None]] = [story, stop, *eternal]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if story.done():
                story.result()
            elif stop.done():
                story.cancel()
                await asyncio.wait([story])
                await self._shutdown.run()
            else:
                ended = next(task for task in eternal if task.done())
                log.critical("the task %r ended unexpectedly", ended.get_name(), exc_info=ended.exception())
                reason = f"the sidecar's task {ended.get_name()!r} ended unexpectedly"
                raise Exit(ExitCode.INTERNAL, reason, "report this with the log")
        finally:
            await self._processes.end_all()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._boot.listeners.close()
            await self._shutdown.clear_up()
            await self.supervisor.devpi_down()

    async def _story(self) -> None:
        """Boot, then serve, until devpi-server exits; return early if the flags only print a text."""
        try:
            plan = await self._boot.run(self._processes.child)
            if plan is not None:
                await self.supervisor.run(plan)
        except ImportFailed:
            self._processes.child.signal(signal.SIGKILL)  # frees its memory
            await asyncio.Event().wait()  # alive, not ready, and showing the reason, until a stop is requested
        except ChildEnded as error:
            self.supervisor.raise_exit(error.code)
        except OSError as error:
            reason = f"can't access the serverdir's volume or the runtime directory: {error.strerror}"
            hint = hint_to_write(error, "the volume or the runtime directory")
            raise Exit(ExitCode.NOT_WRITABLE, reason, hint) from error

    async def _tick(self) -> NoReturn:
        while True:
            self._ticked = time.monotonic()
            await asyncio.sleep(_TICK)


class Messages:
    """Passes devpi-server's unsolicited messages to the features, and its notices to the lifecycle."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self.features: Features = ()
        self._lifecycle = lifecycle

    def __call__(self, message: Message) -> None:
        """Pass one message on."""
        if isinstance(message, Noticed):
            self._lifecycle.notice(Notice(message.about, message.reason, message.hint))
        for feature in self.features:
            feature.hear(message)


@contextlib.contextmanager
def _stopping(stops: Stops, life: Life) -> Iterator[None]:
    """Have `Life` carry out a stop from now on.

    Not by the loop's `add_signal_handler`: the loop removes its handlers before this process exits, and a second
    signal would then kill it.
    """
    loop = asyncio.get_running_loop()
    stops.react = lambda: loop.call_soon_threadsafe(life.stop)
    try:
        yield
    finally:
        stops.ignore()


def _warn_of_surroundings(settings: Settings) -> None:
    for name in settings.ignored_service_links:
        log.warning("%s comes from a Kubernetes service link and is ignored; set enableServiceLinks: false", name)
    if os.geteuid() == 0:
        log.warning("running as root, which is not needed; run it as another user (docker run: without --user 0)")
    if (limit := _memory_limit()) is not None and limit < _NEEDED_MEMORY:
        log.warning(
            "the memory limit of %d MiB is too low: devpi-server, the sidecar and a password check need %d MiB; "
            "raise the limit",
            limit >> 20,
            _NEEDED_MEMORY >> 20,
        )


def _memory_limit() -> int | None:
    """Return the memory limit of this process's cgroup in bytes; None: no limit, or no cgroup."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            return int(Path(path).read_text())
    return None


def _version() -> str:
    try:
        return version("devpi-sidecar")
    except PackageNotFoundError:
        return "unknown"
