"""A mirror of an index on loopback, and indexes that inherit from it, in a devpi-server that can reach no registry."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import NamedTuple

from testbed.upstream import JSON, Upstream
from tests.support.container import Container, call_devpi, login_token, request, upload_form

FLAGS = ("--host", "127.0.0.1", "--port", "0", "--no-root-pypi", "--request-timeout", "3")
"""Without root/pypi, whose upstream is a registry: the tests create their own mirrors."""


class Page(NamedTuple):
    """A simple page as a client sees it."""

    status: int
    files: int
    retry_after: str | None


class Mirrored:
    """`root/mirror` of `upstream`; `root/dev` and `root/white` inherit from it, and `white` whitelists all names."""

    def __init__(self, container: Callable[..., Container], upstream: Upstream, *, project_list: bool = False) -> None:
        self.upstream = upstream
        self.container = container("mirrored", flags=FLAGS).start().wait_ready()
        self.devpi = self.container.devpi
        given = self.container.env.get("DEVPI_PASSWORD")
        self.token = login_token(self.devpi, given or self.container.claim())
        self._numbers = itertools.count(2)
        self._number = ""
        self.has_list = project_list
        self._make(project_list=project_list)

    def again(self, *, project_list: bool = False) -> Mirrored:
        """Return three new indexes of the same upstream and server, by the same names: nothing is cached or failing."""
        more = copy.copy(self)
        more._number = str(next(self._numbers))
        more.has_list = project_list
        more._make(project_list=project_list)
        return more

    def _make(self, *, project_list: bool) -> None:
        self.put("mirror", mirror_no_project_list=not project_list, type="mirror", mirror_url=self.upstream.url)
        self.put("dev", bases=[self.name("mirror")])
        self.put("white", bases=[self.name("mirror")], mirror_whitelist=["*"])

    def name(self, index: str) -> str:
        """Return the full name of one of root's indexes."""
        return f"root/{index}{self._number}"

    def put(self, index: str, **config: object) -> None:
        """Create an index of root's."""
        url = f"{self.devpi}/{self.name(index)}"
        answer = call_devpi(url, "PUT", {"volatile": True, **config}, token=self.token)
        assert answer.status == 200, answer

    def delete(self, index: str) -> None:
        """Delete an index of root's."""
        assert call_devpi(f"{self.devpi}/root/{index}", "DELETE", token=self.token).status == 201

    def patch(self, index: str, **config: object) -> None:
        """Change an index of root's, as `devpi index` does."""
        changes = [f"{key}={value}" for key, value in config.items()]
        assert call_devpi(f"{self.devpi}/{self.name(index)}", "PATCH", changes, token=self.token).status == 200

    def upload(self, index: str, project: str) -> None:
        """Upload a file of a project without reading anything, which would ask the mirror."""
        body, kind = upload_form(project, b"x")
        answer = call_devpi(f"{self.devpi}/{self.name(index)}/", "POST", body, token=self.token, kind=kind)
        assert answer.status == 200, answer

    def page(self, index: str, project: str) -> Page:
        """A project's page in an index."""
        answer = request(f"{self.devpi}/{self.name(index)}/+simple/{project}/", accept=JSON)
        files = len(answer.json["files"]) if answer.status == 200 else 0
        return Page(answer.status, files, answer.headers.get("Retry-After"))


def config_of(c: Container, index: str) -> dict[str, object]:
    """Return the configuration of an index by devpi-server."""
    answer = call_devpi(f"{c.devpi}/{index}?no_projects=")
    assert answer.status == 200, answer
    config: dict[str, object] = answer.json["result"]
    return config
