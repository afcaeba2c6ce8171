"""Report the failed pages of mirrors, serve expired ones soon, and end what devpi does with late answers."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from devpi_server.log import threadlog
from devpi_server.main import XOM
from devpi_server.mirror import MirrorStage, ProjectUpdateLock
from devpi_server.model import UpstreamError, UpstreamNotFoundError, UpstreamNotModified
from devpi_server.normalized import normalize_name

from sidecar.worker.patches.failures import UpstreamFailed, asking, failed, shown, status_of
from sidecar.worker.patches.waits import CROWD, Outage

if TYPE_CHECKING:
    from asyncio import Future, Task

    from devpi_server.mirror import ProjectUpdateInnerLock
    from devpi_server.model import SimpleLinks

    from sidecar.worker.upstreams import Upstreams

SOON = 0.8
"""Seconds that a request waits for a newer page than the expired one in the cache; a later answer is stored too."""
_AT_ONCE = 0.05
"""The same, while upstream's last answer was a failure."""
_LAGGING = 600.0
"""Seconds after which a lower X-PyPI-Last-Serial than the cached page's is taken: until then it may be an old copy."""


def report_failures(upstreams: Upstreams) -> None:
    """Change the pages of devpi's mirrors, from now on."""
    _end_late_answers()
    _accept_lower_serials()
    _report_failed_pages(upstreams)


def is_ours(stage: MirrorStage) -> bool:
    """Whether its upstream is asked by our client."""
    return not stage.offline and not stage.xom.is_replica()


def retry_after(answer: Any) -> str | None:  # noqa: ANN401
    """Return the Retry-After of upstream's answer or, if it was not asked, of our client."""
    ours = getattr(answer, "retry_after", None)
    header: str | None = str(ours) if ours is not None else answer.headers.get("Retry-After")
    return header


def _end_late_answers() -> None:
    """Turn an unreadable answer into a failure, and release the project's lock if a late answer fails.

    devpi releases the lock with its last reference, which the task of the late answer holds until garbage collection,
    or, if the task began outside the loop's thread, until something wakes the loop.
    """
    begin = XOM.create_task
    fetch = MirrorStage._async_fetch_releaselinks
    update = MirrorStage._update_simplelinks_in_future

    async def fetch_or_fail(stage: MirrorStage, newlinks_future: Future[Any], project: str, *arguments: object) -> None:
        _page.set((stage.name, str(project)))
        try:
            await fetch(stage, newlinks_future, project, *arguments)  # type: ignore[arg-type]
        except (UpstreamError, UpstreamNotModified):
            raise
        except Exception as error:  # devpi would answer 500
            kind = type(error).__name__
            threadlog.warn("%s: upstream's answer can't be read: %s: %s", stage.name, kind, error)
            raise UpstreamError(f"its answer can't be read ({kind})") from error
        else:
            _lagging.pop((stage.name, str(project)), None)
        finally:
            newlinks_future.cancel()  # no effect if it has a result

    async def update_or_release(
        stage: MirrorStage, newlinks_future: Future[Any], project: str, lock: ProjectUpdateInnerLock | None
    ) -> None:
        if lock is not None:
            lock.thread_ident = 0  # the thread of the request does not hold it any more
        try:
            await asyncio.wait([newlinks_future])
            if not newlinks_future.cancelled():  # a commit may take long: not in the loop of all mirrors
                storing = functools.partial(_run_at_once, update(stage, newlinks_future, project, lock))  # type: ignore[arg-type]
                await asyncio.get_running_loop().run_in_executor(_STORES, storing)
        finally:
            if lock is not None and newlinks_future.cancelled():  # otherwise the end of the transaction released it
                lock.release()

    def begin_at_once(xom: XOM, coroutine: Coroutine[Any, Any, Any]) -> Task[Any]:
        task = begin(xom, coroutine)
        xom.async_thread.loop.call_soon_threadsafe(lambda: None)  # wakes the loop
        return task

    acquire = ProjectUpdateLock.acquire

    def acquire_as_own(lock: ProjectUpdateLock, timeout: float) -> bool:
        acquired: bool = acquire(lock, timeout)
        if acquired and lock.lock is not None:
            lock.lock.thread_ident = threading.get_ident()  # devpi keeps the one of the first thread
        return acquired

    ProjectUpdateLock.acquire = acquire_as_own  # type: ignore[method-assign, assignment]
    XOM.create_task = begin_at_once  # type: ignore[method-assign, assignment]
    MirrorStage._async_fetch_releaselinks = fetch_or_fail  # type: ignore[method-assign, assignment]
    MirrorStage._update_simplelinks_in_future = update_or_release  # type: ignore[method-assign, assignment]


_STORES = ThreadPoolExecutor(1, "late pages")
"""Stores pages that came after the request had been answered."""


def _run_at_once(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that has nothing to wait for."""
    with suppress(StopIteration):
        coroutine.send(None)
        raise AssertionError("devpi waits for something else")


_page: ContextVar[tuple[str, str]] = ContextVar("page")
"""The index and the project whose page is fetched."""
_lagging: dict[tuple[str, str], float] = {}
"""Since when upstream's serial of a page has been lower than the cached one's. In devpi's loop only."""


def _accept_lower_serials() -> None:
    """Take a page with a lower serial in the end: after a change of mirror_url devpi would refuse it for ever."""
    ignores = MirrorStage.ignore_serial_header

    def ignore(stage: MirrorStage) -> bool:  # devpi asks only if the serial is lower
        if ignores.__get__(stage):
            return True
        page = _page.get(None)
        if page is None:
            return False
        now = time.monotonic()
        return now - _lagging.setdefault(page, now) >= _LAGGING

    MirrorStage.ignore_serial_header = property(ignore)  # type: ignore[assignment, method-assign]


def _report_failed_pages(upstreams: Upstreams) -> None:
    """Report a failed project page to the index that asks for it, and to the client; serve an expired one soon."""
    get = MirrorStage.get_simplelinks_perstage

    def get_or_fail(stage: MirrorStage, project: str, outage: Outage | None = None) -> SimpleLinks:
        while True:
            stage.http.sidecar_answer = None  # type: ignore[attr-defined]
            try:
                with asking():
                    return get(stage, project)
            except (UpstreamNotFoundError, UpstreamFailed):
                raise
            except (UpstreamError, UpstreamNotModified) as error:
                if outage is not None and outage.may_end(stage.http.sidecar_answer):  # type: ignore[attr-defined]
                    continue
                raise _failed(stage, error) from error

    def get_simplelinks(stage: MirrorStage, project: str) -> SimpleLinks:
        if stage.offline:
            return get(stage, project)
        if not is_ours(stage):
            return get_or_fail(stage, project)
        name = normalize_name(project)
        upstream = upstreams.of(stage)
        pages = upstream.client.counts.page
        cached = bool(stage.key_projsimplelinks(name).get())
        if cached and not stage.cache_retrieve_times.is_expired(name, stage.cache_expiry):
            pages("hit")
            return get_or_fail(stage, project)
        if not cached and upstream.has_list and upstream.knows(name) is False:
            raise UpstreamNotFoundError("%s: upstream has no project %s", stage.name, name)  # nothing to remember
        if cached:
            stage.timeout = min(stage.timeout, _AT_ONCE if upstream.client.last_cause is not None else SOON)
        with CROWD.waiting() as has_place:
            if not has_place and not cached:
                pages("failed")
                raise failed(f"{stage.name}: too many requests wait for upstreams, try again later", 503, "1")
            if not has_place:
                stage.timeout = _AT_ONCE
            try:
                outage = None if cached else Outage(upstream.client, stage.timeout)
                links = get_or_fail(stage, project, outage)
            except UpstreamNotFoundError:
                pages("miss")
                raise
            except UpstreamError:
                pages("failed")
                raise
        pages("stale" if links.stale else "miss")
        return links

    MirrorStage.get_simplelinks_perstage = get_simplelinks  # type: ignore[method-assign, assignment]


def _failed(stage: MirrorStage, error: UpstreamError | UpstreamNotModified) -> UpstreamError:
    answer = getattr(stage.http, "sidecar_answer", None)
    cause = getattr(answer, "cause", None)
    why = cause.reason if cause is not None else shown(error)
    wait = None if answer is None else retry_after(answer)
    return failed(f"{stage.name}: upstream failed, try again later ({why})", status_of(answer), wait)
