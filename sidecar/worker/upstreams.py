"""The upstreams of devpi's mirrors: for each a client, and a list of its projects outside devpi's memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devpi_server.log import threadlog
from devpi_server.mirror import SIMPLE_API_ACCEPT

from sidecar.devpi.protocol import UpstreamsSeen
from sidecar.worker.project_list.kept_list import ProjectList
from sidecar.worker.upstream import causes
from sidecar.worker.upstream.upstream_client import UpstreamClient

if TYPE_CHECKING:
    from devpi_server.mirror import MirrorStage

_SHOWN = 20
"""Upstreams that are reported."""


class Upstream:
    """The upstream of one mirror. For any thread."""

    def __init__(self, stage: MirrorStage, settings: dict[str, Any], folder: Path) -> None:
        self.url: str = stage.mirror_url.url
        """With the credentials of the index's configuration, if it has any."""
        self.client = UpstreamClient(stage.name, self.url, settings)
        self.authorization: str | None = None
        """The header of the last request, for the list."""
        self.has_list = True
        self._list_seconds: float = settings["list_seconds"]
        self._list_url: str = stage.mirror_url_without_auth.url
        self.projects = ProjectList(
            folder,
            stage.name,
            self._fetch_list,
            url=self._list_url,
            expiry=float(stage.cache_expiry),
            max_bytes=settings["max_list_bytes"],
            seconds=settings["list_seconds"],
            log=threadlog.warn,
            explain=causes.of_error,
        )

    def configure(self, stage: MirrorStage) -> None:
        """Take over what may change without a new URL."""
        self.authorization = stage.mirror_url_authorization_header
        self.has_list = not stage.no_project_list
        self.projects.expiry = float(stage.cache_expiry)

    def knows(self, project: str) -> bool | None:
        """Return whether upstream has a normalized name; None: there is no fresh list. Starts a refresh if due."""
        self.projects.refresh_if_due()
        is_fresh = self.projects.is_fresh  # first: a list that comes meanwhile may have the project
        found = self.projects.contains(project)
        return found if found or is_fresh else None

    def as_json(self) -> dict[str, Any]:
        """Return the element of `UpstreamsSeen`."""
        projects, error = self.projects, self.projects.error
        failed = None if error is None else {"kind": error.kind, "reason": error.reason, "hint": error.hint}
        return {
            **self.client.as_json(),
            "list": projects.state if self.has_list else "off",
            "list_at": projects.fetched_at if self.has_list else None,
            "list_names": projects.count if self.has_list else None,
            "list_error": failed if self.has_list else None,
        }

    def close(self) -> None:
        """End its threads and processes; connections close with the last request that uses them."""
        self.projects.close()
        self.client.stop_probes()

    @contextmanager
    def _fetch_list(self, etag: str | None) -> Iterator[Any]:
        headers = {"Accept": SIMPLE_API_ACCEPT, "Accept-Encoding": "gzip"}
        if etag is not None:
            headers["If-None-Match"] = etag
        if self.authorization is not None:
            headers["Authorization"] = self.authorization
        with self.client.fetch(self._list_url, headers=headers, seconds=self._list_seconds) as response:
            yield response


class Upstreams:
    """All upstreams that one devpi-server has used since its start. For any thread."""

    def __init__(self, settings: dict[str, Any], folder: Path) -> None:
        """`settings`: `Serve.mirror`; `folder`: for the lists."""
        self.settings = settings
        self._folder = folder
        self._of: dict[str, Upstream] = {}
        self._lock = threading.Lock()

    def of(self, stage: MirrorStage) -> Upstream:
        """Return the upstream of a mirror, whose configuration may have changed since the last time."""
        with self._lock:
            upstream = self._of.get(stage.name)
            if upstream is None or upstream.url != stage.mirror_url.url:
                if upstream is not None:
                    threading.Thread(target=upstream.close, name="old upstream", daemon=True).start()
                    stage.cache_retrieve_times._project2time.clear()  # also of what only the old one lacks
                upstream = self._of[stage.name] = Upstream(stage, self.settings, self._folder)
        upstream.configure(stage)
        return upstream

    def get(self, index: str) -> Upstream | None:
        """Return the upstream of an index by its name; None: it is no mirror, or was not used yet."""
        return self._of.get(index)

    def retain(self, indexes: set[str]) -> None:
        """Forget the upstreams of all other indexes, which are no mirrors any more."""
        with self._lock:
            gone = {index: self._of.pop(index) for index in set(self._of) - indexes}
        for index, upstream in gone.items():
            upstream.close()
            if index not in self._of:  # it was not created again
                with suppress(OSError):
                    upstream.projects.remove()

    def report(self) -> UpstreamsSeen:
        """Return the present state of all."""
        with self._lock:
            upstreams = sorted(self._of.items())
        return UpstreamsSeen(len(upstreams), [upstream.as_json() for _, upstream in upstreams[:_SHOWN]])

    def stop_refreshes(self) -> None:
        """End the processes that write lists; requests go on."""
        with self._lock:
            upstreams = list(self._of.values())
        for upstream in upstreams:
            upstream.projects.stop()


class Reporter:
    """Sends `UpstreamsSeen` when it differs from the one before; nothing as long as no upstream was used."""

    def __init__(self, upstreams: Upstreams, send: Callable[[UpstreamsSeen], None]) -> None:
        self._upstreams = upstreams
        self._send = send
        self._sent: UpstreamsSeen | None = None
        self._failed = False

    def look(self) -> None:
        """Compare and send; called once a second. Raises SidecarGone."""
        try:
            seen = self._upstreams.report()
        except Exception:
            if not self._failed:
                threadlog.exception("the upstreams can't be reported")
            self._failed = True
            return
        if seen != self._sent and (seen.total or self._sent is not None):
            self._send(seen)
            self._sent = seen
