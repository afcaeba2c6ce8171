"""Let devpi's mirrors use our client and our lists of projects, and tell a failing upstream from one without a project.

On a replica the primary is asked by devpi's own client, for each name. In devpi's offline mode nothing changes.
"""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from devpi_server import views
from devpi_server.httpclient import FatalResponse
from devpi_server.log import threadlog
from devpi_server.main import XOM
from devpi_server.markers import unknown
from devpi_server.mirror import MirrorHTTPClient, MirrorStage
from devpi_server.model import UpstreamError, UpstreamNotFoundError, UpstreamNotModified
from devpi_server.normalized import normalize_name
from devpi_server.readonly import ensure_deeply_readonly
from devpi_server.views import SIMPLE_API_V1_JSON
from pyramid.threadlocal import get_current_request

from sidecar.worker.patches.failures import answer_later, fail_inheriting_indexes, failed, is_asking, shown
from sidecar.worker.upstream.upstream_client import UpstreamClient

if TYPE_CHECKING:
    from asyncio import Future, Task

    from devpi_server.filestore import FileEntry
    from devpi_server.httpclient import AsyncGetResponse, GetResponse
    from devpi_server.markers import Unknown
    from devpi_server.mirror import ProjectUpdateInnerLock
    from devpi_server.model import SimpleLinks

    from sidecar.worker.upstreams import Upstream, Upstreams

SOON = 0.8
"""Seconds that a request waits for a newer page than the expired one in the cache; a later answer is stored too."""
_AT_ONCE = 0.05
"""The same, while upstream's last answer was a failure."""
_CROWDED = 1.0
"""If half of devpi's threads wait for upstreams, and one for so many seconds, no further thread waits."""
_LAGGING = 600.0
"""Seconds after which a lower X-PyPI-Last-Serial than the cached page's is taken: until then it may be an old copy."""
_YOUNG = 10.0
"""Seconds for which an outage is waited for: a longer one is answered at once."""
_FILE_SECONDS = 5.0
"""Seconds that a request for a file waits for the end of a short outage; one for a page waits --request-timeout."""
_MOMENT = 0.25
"""Seconds between two attempts in an outage; while the breaker is open, they don't reach upstream."""
PASSING = frozenset({"refused", "name", "cut", "status", "limited", "timeout"})
"""The kinds of failures that end by themselves; they are answered with 503: older pips do not retry a 502."""
_LISTING = "/{user}/{index}/+simple/"
_JSON = {SIMPLE_API_V1_JSON, "application/json"}
_HTML = {"", "text/html", "application/vnd.pypi.simple.v1+html", "application/xhtml+xml"}
_FILE = re.compile(r"\.(?:whl|zip|egg|exe|msi|rpm|deb|dmg|tgz|tbz|txz|tar(?:\.\w+)?)\b", re.IGNORECASE)
_EMPTY_PAGE = re.compile(r"pypi:repository-version|links for|index of", re.IGNORECASE)
"""In HTML pages of projects without files, as indexes and web servers write them; not in a login page."""


def install(upstreams: Upstreams) -> None:
    """Change devpi's mirrors, from now on."""
    _use_our_client(upstreams)
    _count_files(upstreams)
    _end_late_answers()
    _accept_lower_serials()
    _use_our_lists(upstreams)
    _report_failed_pages(upstreams)
    fail_inheriting_indexes()


def _is_ours(stage: MirrorStage) -> bool:
    return not stage.offline and not stage.xom.is_replica()


# --- the client -----------------------------------------------------------------------------------------------------


def _use_our_client(upstreams: Upstreams) -> None:
    """Send all requests of mirrors by `UpstreamClient`; keep the last failure with devpi's client of one request."""
    make = vars(MirrorStage)["http"]
    ask = MirrorHTTPClient.async_get
    open_stream = MirrorHTTPClient.stream

    def http(stage: MirrorStage) -> MirrorHTTPClient:
        client: MirrorHTTPClient = make.__get__(stage, MirrorStage)
        if _is_ours(stage):
            client.http = upstreams.of(stage).client  # type: ignore[assignment]
        return client

    async def async_get(client: MirrorHTTPClient, *arguments: object, **options: object) -> AsyncGetResponse:
        response, text = await ask(client, *arguments, **options)  # type: ignore[arg-type]
        if text is not None and response.status_code == 200 and (problem := _no_page(response, text)):
            response, text = FatalResponse(str(response.url), problem), None
        client.sidecar_answer = response  # type: ignore[attr-defined]
        return response, text

    def stream(client: MirrorHTTPClient, cstack: ExitStack, *arguments: object, **options: object) -> GetResponse:
        with _crowd.waiting() as has_place:
            if not has_place:
                answer_later(503, "1")
                return FatalResponse("", "too many requests wait for upstreams")
            http: object = client.http
            outage = _Outage(http if isinstance(http, UpstreamClient) else None, _FILE_SECONDS)
            while True:
                response: GetResponse = open_stream(client, cstack, *arguments, **options)
                if not outage.may_end(response):
                    break
        if response.status_code not in (200, 404):
            cause = getattr(response, "cause", None)
            passes = cause is not None and cause.kind in PASSING
            answer_later(503 if passes else 502, _retry_after(response))
        return response

    property_ = functools.cached_property(http)
    property_.__set_name__(MirrorStage, "http")
    MirrorStage.http = property_  # type: ignore[assignment]
    MirrorHTTPClient.async_get = async_get  # type: ignore[method-assign, assignment]
    MirrorHTTPClient.stream = stream  # type: ignore[method-assign, assignment]


def _no_page(response: Any, text: str) -> str | None:  # noqa: ANN401
    """Return why an answer is no page of a project, a login page for example; None: it may be one."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in _JSON:
        response.headers["content-type"] = SIMPLE_API_V1_JSON  # devpi takes JSON with a charset for HTML
        return None
    if kind not in _HTML:
        return f"its answer is no page of a project but {kind[:100]!r}"
    if _FILE.search(text) is None and _EMPTY_PAGE.search(text) is None:
        return "its answer is no page of a project but another HTML page, a login page perhaps"
    return None


def _retry_after(answer: Any) -> str | None:  # noqa: ANN401
    """Return the Retry-After of upstream's answer or, if it was not asked, of our client."""
    ours = getattr(answer, "retry_after", None)
    header: str | None = str(ours) if ours is not None else answer.headers.get("Retry-After")
    return header


# --- files ----------------------------------------------------------------------------------------------------------


def _count_files(upstreams: Upstreams) -> None:
    """Count the files of mirrors that clients request, by whether they are stored here."""
    should_fetch = views.should_fetch_remote_file

    def count(entry: FileEntry, headers: Any) -> bool:  # noqa: ANN401
        fetches: bool = should_fetch(entry, headers)
        upstream = upstreams.get(f"{entry.user}/{entry.index}")
        if upstream is not None:
            upstream.client.counts.file("miss" if fetches else "hit")
        return fetches

    views.should_fetch_remote_file = count


# --- pages ----------------------------------------------------------------------------------------------------------


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

    def get_or_fail(stage: MirrorStage, project: str, outage: _Outage | None = None) -> SimpleLinks:
        while True:
            stage.http.sidecar_answer = None  # type: ignore[attr-defined]
            try:
                return get(stage, project)
            except UpstreamNotFoundError:
                raise
            except UpstreamError as error:
                if outage is not None and outage.may_end(stage.http.sidecar_answer):  # type: ignore[attr-defined]
                    continue
                raise _failed(stage, error) from error

    def get_simplelinks(stage: MirrorStage, project: str) -> SimpleLinks:
        if stage.offline:
            return get(stage, project)
        if not _is_ours(stage):
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
        with _crowd.waiting() as has_place:
            if not has_place and not cached:
                pages("failed")
                raise failed(f"{stage.name}: too many requests wait for upstreams, try again later", 503, "1")
            if not has_place:
                stage.timeout = _AT_ONCE
            try:
                outage = None if cached else _Outage(upstream.client, stage.timeout)
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


def _failed(stage: MirrorStage, error: UpstreamError) -> UpstreamError:
    answer = getattr(stage.http, "sidecar_answer", None)
    cause = getattr(answer, "cause", None)
    why = cause.reason if cause is not None else shown(error)
    passes = answer is None or (cause is not None and cause.kind in PASSING)
    retry_after = None if answer is None else _retry_after(answer)
    return failed(f"{stage.name}: upstream failed, try again later ({why})", 503 if passes else 502, retry_after)


class _Outage:
    """A request waits for the end of a short outage: uv gives up after 4 seconds, and some pips at once."""

    def __init__(self, client: UpstreamClient | None, seconds: float) -> None:
        self._client = client
        self._until = time.monotonic() + seconds

    def may_end(self, answer: Any) -> bool:  # noqa: ANN401
        """Wait a moment; False: `answer` (None: none in time) is no failure that soon ends, or it is too late."""
        cause = getattr(answer, "cause", None)
        if self._client is None or cause is None or cause.kind not in PASSING:
            return False
        since, now = self._client.counts.failing_since, time.monotonic()
        if since is None or now - since > _YOUNG or now + max(_MOMENT, answer.retry_after or 0) > self._until:
            return False
        time.sleep(_MOMENT)
        return True


class _Crowd:
    """The threads that wait for upstreams; half of them must be free for other requests."""

    def __init__(self) -> None:
        self.places = 25
        self._since: dict[int, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def waiting(self) -> Iterator[bool]:
        """Wait in this block; False: there is no place, so do not."""
        me, now = threading.get_ident(), time.monotonic()
        with self._lock:
            is_first = me not in self._since
            has_place = not is_first or (len(self._since) < self.places or now - min(self._since.values()) < _CROWDED)
            if is_first and has_place:
                self._since[me] = now
        try:
            yield has_place
        finally:
            if is_first and has_place:
                with self._lock:
                    del self._since[me]


_crowd = _Crowd()


def leave_threads_free(threads: int) -> None:
    """Let at most half of devpi's threads wait for upstreams that are slow."""
    _crowd.places = max(1, threads // 2)


# --- the list of projects -------------------------------------------------------------------------------------------


def _use_our_lists(upstreams: Upstreams) -> None:
    """Look names up in the list that the sidecar keeps in a file, and ask upstream for a name while there is none."""
    has = MirrorStage.has_project_perstage
    list_all = MirrorStage.list_projects_perstage

    def has_project(stage: MirrorStage, project: str) -> bool | Unknown:
        if stage.offline:
            return has(stage, project)
        name = normalize_name(project)
        if stage.is_project_cached(name):
            return True
        if not _is_ours(stage):
            return True if is_asking() else unknown  # the primary knows
        upstream = upstreams.of(stage)
        known = upstream.knows(name) if upstream.has_list else None
        if known is not None:
            return known
        if not is_asking():
            return unknown
        if upstream.has_list:
            _keep_to_ourselves(stage, name, upstream, upstreams.settings["unknown"])
        return True  # ask upstream

    def list_projects(stage: MirrorStage) -> Any:  # noqa: ANN401
        if stage.offline:
            return list_all(stage)
        cached = stage._stale_list_projects_perstage()
        if _is_ours(stage) and _is_listing():
            upstream = upstreams.of(stage)
            if upstream.has_list:
                upstream.projects.refresh_if_due()
                upstream.projects.wait(stage.timeout)
                return _Listing(upstream.projects.names, cached)
        return ensure_deeply_readonly(cached)

    MirrorStage.has_project_perstage = has_project  # type: ignore[method-assign, assignment]
    MirrorStage.list_projects_perstage = list_projects  # type: ignore[method-assign, assignment]


def _keep_to_ourselves(stage: MirrorStage, name: str, upstream: Upstream, policy: str) -> None:
    """Raise UpstreamFailed or UpstreamNotFoundError for a name that upstream must not be asked for without a list."""
    if upstream.projects.contains(name) is False and _is_private(stage.xom, name):  # by an old list
        raise UpstreamNotFoundError("%s: upstream had no project %s", stage.name, name)
    if policy == "wait" or _is_private(stage.xom, name):
        raise failed(f"{stage.name}: upstream's list of projects is not here yet, try again later", 503)


def _is_private(xom: XOM, name: str) -> bool:
    """Whether any index of this server that is no mirror has a project of this name. Needs a transaction."""
    for user in xom.model.get_userlist():
        for index, config in user.key.get().get("indexes", {}).items():
            if config.get("type") == "mirror":
                continue
            stage = xom.model.getstage(user.name, index)
            if stage is not None and stage.has_project_perstage(name):
                return True
    return False


def _is_listing() -> bool:
    """Whether the request is for a listing of all projects, which devpi streams; others would hold all names."""
    request = get_current_request()
    route = getattr(request, "matched_route", None)
    return getattr(route, "name", "").rstrip("/") == _LISTING.rstrip("/")


class _Listing:
    """The names of an upstream, then the cached ones that it does not list; each iteration reads the file again."""

    def __init__(self, names: Callable[[], Iterable[str]], cached: Iterable[str]) -> None:
        self._names = names
        self._cached = frozenset(map(str, cached))

    def __iter__(self) -> Iterator[str]:
        more = set(self._cached)
        for name in self._names():
            normalized = normalize_name(name)
            more.discard(str(normalized))
            yield str(normalized)
        yield from sorted(more)
