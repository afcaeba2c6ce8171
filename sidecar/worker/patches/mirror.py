"""Let devpi's mirrors use our client and our lists of projects, and tell a failing upstream from one without a project.

On a replica the primary is asked by devpi's own client, for each name. In devpi's offline mode nothing changes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from devpi_server import views
from devpi_server.httpclient import FatalResponse
from devpi_server.mirror import MirrorHTTPClient, MirrorStage
from devpi_server.views import SIMPLE_API_V1_JSON

from sidecar.worker.patches import mirror_lists, mirror_pages
from sidecar.worker.patches.failures import answer_later, fail_inheriting_indexes, status_of
from sidecar.worker.patches.waits import CROWD, Outage
from sidecar.worker.upstream.causes import Cause
from sidecar.worker.upstream.upstream_client import FailedResponse, UpstreamClient

if TYPE_CHECKING:
    from devpi_server.filestore import FileEntry
    from devpi_server.httpclient import AsyncGetResponse, GetResponse

    from sidecar.worker.upstreams import Upstreams

_FILE_SECONDS = 5.0
"""Seconds that a request for a file waits for the end of a short outage; one for a page waits --request-timeout."""
_JSON = {SIMPLE_API_V1_JSON, "application/json"}
_HTML = {"", "text/html", "application/vnd.pypi.simple.v1+html", "application/xhtml+xml"}
_FILE = re.compile(r"\.(?:whl|zip|egg|exe|msi|rpm|deb|dmg|tgz|tbz|txz|tar(?:\.\w+)?)\b", re.IGNORECASE)
_EMPTY_PAGE = re.compile(r"pypi:repository-version|links for|index of", re.IGNORECASE)
"""In HTML pages of projects without files, as indexes and web servers write them; not in a login page."""


def install(upstreams: Upstreams) -> None:
    """Change devpi's mirrors, from now on."""
    _use_our_client(upstreams)
    _count_files(upstreams)
    _keep_the_end_back()
    mirror_lists.use_them(upstreams)
    mirror_pages.report_failures(upstreams)
    fail_inheriting_indexes()


def _use_our_client(upstreams: Upstreams) -> None:
    """Send all requests of mirrors by `UpstreamClient`; keep the last failure with devpi's client of one request."""
    make = vars(MirrorStage)["http"]
    ask = MirrorHTTPClient.async_get
    open_stream = MirrorHTTPClient.stream

    def http(stage: MirrorStage) -> MirrorHTTPClient:
        client: MirrorHTTPClient = make.__get__(stage, MirrorStage)
        if mirror_pages.is_ours(stage):
            client.http = upstreams.of(stage).client  # type: ignore[assignment]
        return client

    async def async_get(client: MirrorHTTPClient, *arguments: object, **options: object) -> AsyncGetResponse:
        response, text = await ask(client, *arguments, **options)  # type: ignore[arg-type]
        if text is not None and response.status_code == 200 and (problem := _no_page(response, text)):
            cause = Cause("unreadable", problem, "check what is at the mirror's URL: it may need a user and a password")
            http: object = client.http
            if isinstance(http, UpstreamClient):  # not a replica
                http.counts.fault(cause)
            response, text = FailedResponse(str(response.url), cause), None
        if response.status_code == 410:  # devpi takes it for a failure
            response.status_code = 404
        client.sidecar_answer = response  # type: ignore[attr-defined]
        return response, text

    def stream(client: MirrorHTTPClient, cstack: ExitStack, *arguments: object, **options: object) -> GetResponse:
        with CROWD.waiting() as has_place:
            if not has_place:
                answer_later(503, "1")
                return FatalResponse("", "too many requests wait for upstreams")
            http: object = client.http
            outage = Outage(http if isinstance(http, UpstreamClient) else None, _FILE_SECONDS)
            while True:
                response: GetResponse = open_stream(client, cstack, *arguments, **options)
                if not outage.may_end(response):
                    break
        if response.status_code not in (200, 404):
            answer_later(status_of(response), mirror_pages.retry_after(response))
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


def _keep_the_end_back() -> None:
    """Send the last piece of a file only when its digest was verified: otherwise the client gets an incomplete file."""
    iterate = views.FileStreamer.__iter__

    def keep_back(streamer: views.FileStreamer) -> Iterator[Any]:
        pieces = iterate(streamer)  # raises at its end if the digest is another one
        yield next(pieces)  # the headers
        last = None
        for piece in pieces:
            if last is not None:
                yield last
            last = piece
        if last is not None:
            yield last

    views.FileStreamer.__iter__ = keep_back  # type: ignore[method-assign]


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
