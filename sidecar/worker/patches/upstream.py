"""Failures of a mirror's upstream stay failures: 502 or 503 with Retry-After, which pip and uv repeat.

devpi-server takes an upstream that fails for one that lacks the project, wherever an index inherits from the mirror: it
answers 404, or a page without files, and the client gives up or takes another version.

Nothing of this applies in devpi's offline mode, where no upstream is asked.
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
"""Seconds that a client is told to wait, where upstream doesn't say how long. pip does it five times."""
LONGEST = 3600
"""Seconds that it is told at most, whatever upstream says."""
_LATER = {429, 503}
"""Statuses of an upstream that will do it later: 503. Any other failure is 502."""
_QUERY = re.compile(r"\?[^\s'\"<>)]+")


class UpstreamFailed(UpstreamError):
    """The upstream of a mirror failed, which says nothing about the project."""


class _Asking(threading.local):
    """What this thread is doing."""

    failures: list[UpstreamFailed] | None = None
    """Of the mirrors that are being asked on behalf of an index; None: none is."""


_asking = _Asking()


def keep_failures() -> None:
    """Have devpi pass on what fails upstream, from now on."""
    _remember_refusals()
    _end_what_waits()
    _keep_lists()
    _tell_pages()
    _tell_heirs()


def _remember_refusals() -> None:
    """The client of each mirror, which is made for one request, knows what the last answer was."""
    ask = MirrorHTTPClient.async_get

    async def async_get(client: MirrorHTTPClient, *arguments: object, **options: object) -> AsyncGetResponse:
        response, text = await ask(client, *arguments, **options)  # type: ignore[arg-type]
        client.sidecar_refusal = response.status_code, response.headers.get("Retry-After")  # type: ignore[attr-defined]
        return response, text

    MirrorHTTPClient.async_get = async_get  # type: ignore[method-assign, assignment]


def _end_what_waits() -> None:
    """An answer that is no page is a failure; whoever waits in vain for a late one releases the project's lock.

    devpi leaves that to the lock's last reference, which the task of the late answer holds: until garbage is collected,
    or, where it began in another thread than the loop's, until something else wakes the loop.
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
            newlinks_future.cancel()  # where it has no result

    async def update_or_release(
        stage: MirrorStage, newlinks_future: Future[Any], project: str, lock: ProjectUpdateInnerLock | None
    ) -> None:
        try:
            await update(stage, newlinks_future, project, lock)  # type: ignore[arg-type]
        finally:
            if lock is not None and newlinks_future.cancelled():  # else the transaction's end has released it
                lock.release()

    def begin_at_once(xom: XOM, coroutine: Coroutine[Any, Any, Any]) -> Task[Any]:
        task = begin(xom, coroutine)
        xom.async_thread.loop.call_soon_threadsafe(lambda: None)  # wakes it
        return task

    XOM.create_task = begin_at_once  # type: ignore[method-assign, assignment]
    MirrorStage._async_fetch_releaselinks = fetch_or_fail  # type: ignore[method-assign, assignment]
    MirrorStage._update_simplelinks_in_future = update_or_release  # type: ignore[method-assign, assignment]


def _keep_lists() -> None:
    """An upstream that says 304, or nothing, leaves the list of its projects what it was."""
    update = MirrorStage._update_projects

    def update_projects(stage: MirrorStage, timeout: float | None = None) -> tuple[dict[Any, str], bool]:
        projects, stale = update(stage, timeout=timeout)
        if not stage.cache_projectnames.exists():
            return projects, stale
        return stage.cache_projectnames.get(), stale

    MirrorStage._update_projects = update_projects  # type: ignore[method-assign, assignment]


def _tell_pages() -> None:
    """A page that fails says so to the index that asks for it, and to the client."""
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
            f"{stage.name}: the list of its upstream's projects is not to be had, try again later; an upstream that "
            "has none needs mirror_no_project_list=true",
        )

    MirrorStage.get_simplelinks_perstage = get_simplelinks  # type: ignore[method-assign, assignment]
    MirrorStage.has_project_perstage = has_project  # type: ignore[method-assign, assignment]


def _tell_heirs() -> None:
    """An index whose mirror fails has no answer: what the others have is not all."""
    ask = BaseStage.op_sro_check_mirror_whitelist

    def ask_all(stage: BaseStage, opname: str, **kw: object) -> Iterator[tuple[BaseStage, Any]]:
        answers = ask(stage, opname, **kw)
        while True:
            with _failures() as failures:
                answer = next(answers, None)
            if failures:
                raise failures[0]  # devpi has passed over it
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
    """The error to raise; the index that asks, and the request that is being handled, hear of it."""
    error = UpstreamFailed("%s", message)
    if _asking.failures is not None:
        _asking.failures.append(error)
    request: Request | None = get_current_request()
    if request is not None:
        status, retry_after = getattr(stage.http, "sidecar_refusal", None) or (0, None)
        request.add_response_callback(_says_when(503 if status in _LATER else 502, seconds(retry_after)))
    return error


def _says_when(status: int, retry_after: int) -> Callable[[Request, Response], None]:
    def tell(_: Request, response: Response) -> None:
        if response.status_code == 502:
            response.status_code = status
            response.headers["Retry-After"] = str(retry_after)

    return tell


def shown(error: Exception) -> str:
    """What an error says, without what may be a secret in a URL: user, password and query."""
    return _QUERY.sub("?…", redact(str(error)))


def seconds(retry_after: str | None) -> int:
    """How long to wait by an upstream's Retry-After, a number or a date."""
    said = (retry_after or "").strip()
    if said.isascii() and said.isdigit():
        wait = int(said[:9])
    else:
        try:
            wait = int(parsedate_to_datetime(said).timestamp() - time.time()) + 1
        except (ValueError, OverflowError):
            return RETRY_AFTER
    return min(max(wait, 1), LONGEST)
