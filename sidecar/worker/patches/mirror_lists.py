"""Look the projects of mirrors up in lists that are files, and ask upstream for a name while there is no list."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from devpi_server import views
from devpi_server.markers import unknown
from devpi_server.mirror import MirrorStage
from devpi_server.model import UpstreamNotFoundError
from devpi_server.normalized import normalize_name
from devpi_server.readonly import ensure_deeply_readonly
from pyramid.threadlocal import get_current_request

from sidecar.worker.patches.failures import failed, is_asking
from sidecar.worker.patches.mirror_pages import is_ours

if TYPE_CHECKING:
    from devpi_server.main import XOM
    from devpi_server.markers import Unknown

    from sidecar.worker.upstreams import Upstream, Upstreams

_LISTING = "/{user}/{index}/+simple/"
"""The route of the listing, which devpi streams; other answers would hold all names in memory."""


def use_them(upstreams: Upstreams) -> None:
    """Look names up in the list that the sidecar keeps in a file, and ask upstream for a name while there is none."""
    has = MirrorStage.has_project_perstage
    list_all = MirrorStage.list_projects_perstage

    def has_project(stage: MirrorStage, project: str) -> bool | Unknown:
        if stage.offline:
            return has(stage, project)
        name = normalize_name(project)
        if stage.is_project_cached(name):
            return True
        if not is_ours(stage):
            return True if is_asking() else unknown  # the primary knows
        upstream = upstreams.of(stage)
        known = upstream.knows(name) if upstream.has_list else None
        if known is not None:
            return known
        if not is_asking() and not _is_requested("/{user}/{index}/+f/{relpath:.*}"):
            return unknown
        if upstream.has_list:
            _keep_to_ourselves(stage, name, upstream, upstreams.settings["unknown"])
        return True  # ask upstream

    def list_projects(stage: MirrorStage) -> Any:  # noqa: ANN401
        if stage.offline:
            return list_all(stage)
        cached = stage._stale_list_projects_perstage()
        if is_ours(stage) and _is_requested(_LISTING):
            upstream = upstreams.of(stage)
            if upstream.has_list:
                upstream.projects.refresh_if_due()
                upstream.projects.wait(stage.timeout)
                return _Listing(upstream.projects.names, cached)
        return ensure_deeply_readonly(cached)

    MirrorStage.has_project_perstage = has_project  # type: ignore[method-assign, assignment]
    MirrorStage.list_projects_perstage = list_projects  # type: ignore[method-assign, assignment]
    views.sorted = _sorted  # type: ignore[attr-defined]


def _keep_to_ourselves(stage: MirrorStage, name: str, upstream: Upstream, policy: str) -> None:
    """Raise UpstreamFailed or UpstreamNotFoundError for a name that upstream must not be asked for without a list."""
    private = _is_private(stage.xom, name)
    if private and upstream.projects.contains(name) is False:  # by an old list
        raise UpstreamNotFoundError("%s: upstream had no project %s", stage.name, name)
    if private or policy == "wait":
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


def _is_requested(route: str) -> bool:
    """Whether the request is for this route of devpi's."""
    matched = getattr(get_current_request(), "matched_route", None)
    return str(getattr(matched, "name", "")).rstrip("/") == route.rstrip("/")


class _Listing:
    """The names of an upstream and the cached ones, sorted; each iteration reads the file again."""

    def __init__(self, names: Callable[[], Iterable[str]], cached: Iterable[str]) -> None:
        self._names = names
        self._cached = frozenset(map(str, cached))

    def __iter__(self) -> Iterator[str]:
        listed = (str(normalize_name(name)) for name in self._names())
        previous = None
        for name in heapq.merge(listed, sorted(self._cached)):
            if name != previous:
                yield name
            previous = name


def _sorted(names: Iterable[Any], **how: object) -> Iterable[Any]:
    """As the built-in one, which for a browser's listing would hold all names: 70 MiB for PyPI's."""
    return names if isinstance(names, _Listing) else sorted(names, **how)  # type: ignore[call-overload]
