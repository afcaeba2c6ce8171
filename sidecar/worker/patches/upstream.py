"""Answer 502 or 503 with Retry-After if a mirror's upstream fails; pip and uv retry these.

If an index inherits from a mirror, devpi-server treats a failing upstream as one that lacks the project. It answers 404
or a page without files, and the client gives up or installs another version.

None of this applies in devpi's offline mode, which asks no upstream.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from devpi_server.log import threadlog
from devpi_server.main import XOM
from devpi_server.markers import unknown
from devpi_server.mirror import MirrorHTTPClient, MirrorStage
from devpi_server.model import BaseStage, UpstreamError, UpstreamNotFoundError, UpstreamNotModified
from pyramid.threadlocal import get_current_request

from sidecar.core.logging import redact

if TYPE_CHECKING:
    from asyncio import Future, Task

    from devpi_server.httpclient import AsyncGetResponse
    from devpi_server.markers import Unknown
    from devpi_server.mirror import ProjectUpdateInnerLock
    from devpi_server.model import SimpleLinks
    from pyramid.request import Request
    from pyramid.response import Response

RETRY_AFTER = 3
"""Default Retry-After in seconds, if upstream sends none. pip retries five times."""
LONGEST = 3600
"""Maximum Retry-After in seconds, whatever upstream sends."""
_LATER = {429, 503}
"""Upstream's statuses for which devpi answers 503. It answers 502 for any other failure."""
_QUERY = re.compile(r"\?[^\s'\"<>)]+")


class UpstreamFailed(UpstreamError):
    """The upstream of a mirror failed; whether it has the project is unknown."""


class _Asking(threading.local):
    """What this thread asks mirrors for."""

    failures: list[UpstreamFailed] | None = None
    """Failures of the mirrors that an index asks; None if no index asks."""


_asking = _Asking()


def keep_failures() -> None:
    """Make devpi pass on upstream failures, from now on."""
    _remember_refusals()
    _end_late_answers()
    _keep_lists()
    _report_failed_pages()
    _fail_inheriting_indexes()


def _remember_refusals() -> None:
    """Make a mirror's client, which serves one request, keep the last status and Retry-After."""
    ask = MirrorHTTPClient.async_get

    async def async_get(client: MirrorHTTPClient, *arguments: object, **options: object) -> AsyncGetResponse:
        response, text = await ask(client, *arguments, **options)  # type: ignore[arg-type]
        client.sidecar_refusal = response.status_code, response.headers.get("Retry-After")  # type: ignore[attr-defined]
        return response, text

    MirrorHTTPClient.async_get = async_get  # type: ignore[method-assign, assignment]


def _end_late_answers() -> None:
    """Turn an unreadable answer into a failure, and release the project's lock if a late answer fails.

    devpi releases the lock with its last reference, which the task of the late answer holds until garbage collection,
    or, if the task began outside the loop's thread, until something wakes the loop.
    """
    begin = XOM.create_task
    fetch = MirrorStage._async_fetch_releaselinks
    update = MirrorStage._update_simplelinks_in_future

    async def fetch_or_fail(stage: MirrorStage, newlinks_future: Future[Any], *arguments: object) -> None:
        try:
            await fetch(stage, newlinks_future, *arguments)  # type: ignore[arg-type]
        except (UpstreamError, UpstreamNotModified):
            raise
        except Exception as error:  # devpi would answer 500
            kind = type(error).__name__
            threadlog.warn("%s: upstream's answer can't be read: %s: %s", stage.name, kind, error)
            raise UpstreamError(f"its answer can't be read ({kind})") from error
        finally:
            newlinks_future.cancel()  # no effect if it has a result

    async def update_or_release(
        stage: MirrorStage, newlinks_future: Future[Any], project: str, lock: ProjectUpdateInnerLock | None
    ) -> None:
        try:
            await update(stage, newlinks_future, project, lock)  # type: ignore[arg-type]
        finally:
            if lock is not None and newlinks_future.cancelled():  # otherwise the end of the transaction released it
                lock.release()

    def begin_at_once(xom: XOM, coroutine: Coroutine[Any, Any, Any]) -> Task[Any]:
        task = begin(xom, coroutine)
        xom.async_thread.loop.call_soon_threadsafe(lambda: None)  # wakes the loop
        return task

    XOM.create_task = begin_at_once  # type: ignore[method-assign, assignment]
    MirrorStage._async_fetch_releaselinks = fetch_or_fail  # type: ignore[method-assign, assignment]
    MirrorStage._update_simplelinks_in_future = update_or_release  # type: ignore[method-assign, assignment]


def _keep_lists() -> None:
    """Keep the list of projects if upstream answers 304 or not at all."""
    update = MirrorStage._update_projects

    def update_projects(stage: MirrorStage, timeout: float | None = None) -> tuple[dict[Any, str], bool]:
        projects, stale = update(stage, timeout=timeout)
        if not stage.cache_projectnames.exists():
            return projects, stale
        return stage.cache_projectnames.get(), stale

    MirrorStage._update_projects = update_projects  # type: ignore[method-assign, assignment]


def _report_failed_pages() -> None:
    """Report a failed project page to the index that asks for it, and to the client."""
    get = MirrorStage.get_simplelinks_perstage
    has = MirrorStage.has_project_perstage

    def get_simplelinks(stage: MirrorStage, project: str) -> SimpleLinks:
        if stage.offline:
            return get(stage, project)
        stage.http.sidecar_refusal = None  # type: ignore[attr-defined]
        try:
            return get(stage, project)
        except UpstreamNotFoundError:
            raise
        except UpstreamError as error:
            raise _failed(stage, f"{stage.name}: upstream failed, try again later ({shown(error)})") from error

    def has_project(stage: MirrorStage, project: str) -> bool | Unknown:
        found = has(stage, project)
        if found is not unknown or stage.offline or _asking.failures is None:
            return found
        if stage.no_project_list:
            return True  # ask upstream
        raise _failed(
            stage,
            f"{stage.name}: upstream's list of projects is unavailable, try again later; "
            "if upstream has no such list, set mirror_no_project_list=true",
        )

    MirrorStage.get_simplelinks_perstage = get_simplelinks  # type: ignore[method-assign, assignment]
    MirrorStage.has_project_perstage = has_project  # type: ignore[method-assign, assignment]


def _fail_inheriting_indexes() -> None:
    """Make an index fail if one of its mirrors fails, because the answers of the others are incomplete."""
    ask = BaseStage.op_sro_check_mirror_whitelist

    def ask_all(stage: BaseStage, opname: str, **kw: object) -> Iterator[tuple[BaseStage, Any]]:
        answers = ask(stage, opname, **kw)
        while True:
            with _failures() as failures:
                answer = next(answers, None)
            if failures:
                raise failures[0]  # devpi ignored it
            if answer is None:
                return
            yield answer

    BaseStage.op_sro_check_mirror_whitelist = ask_all  # type: ignore[method-assign, assignment]


@contextmanager
def _failures() -> Iterator[list[UpstreamFailed]]:
    before = _asking.failures
    failures: list[UpstreamFailed] = []
    _asking.failures = failures
    try:
        yield failures
    finally:
        _asking.failures = before


def _failed(stage: MirrorStage, message: str) -> UpstreamFailed:
    """Return the error to raise, after recording it for the asking index and setting the status of the response."""
    error = UpstreamFailed("%s", message)
    if _asking.failures is not None:
        _asking.failures.append(error)
    request: Request | None = get_current_request()
    if request is not None:
        status, retry_after = getattr(stage.http, "sidecar_refusal", None) or (0, None)
        request.add_response_callback(_set_retry_after(503 if status in _LATER else 502, seconds(retry_after)))
    return error


def _set_retry_after(status: int, retry_after: int) -> Callable[[Request, Response], None]:
    def callback(_: Request, response: Response) -> None:
        if response.status_code == 502:
            response.status_code = status
            response.headers["Retry-After"] = str(retry_after)

    return callback


def shown(error: Exception) -> str:
    """Return an error's message without possible secrets in URLs: user, password and query."""
    return _QUERY.sub("?…", redact(str(error)))


def seconds(retry_after: str | None) -> int:
    """Return the seconds to wait from upstream's Retry-After, a number or a date."""
    value = (retry_after or "").strip()
    if value.isascii() and value.isdigit():
        wait = int(value[:9])
    else:
        try:
            wait = int(parsedate_to_datetime(value).timestamp() - time.time()) + 1
        except (ValueError, OverflowError):
            return RETRY_AFTER
    return min(max(wait, 1), LONGEST)
