"""A mirror of an index on loopback, and indexes that inherit from it, in a devpi-server that can reach no registry."""

from __future__ import annotations

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
        self.put("mirror", mirror_no_project_list=not project_list, type="mirror", mirror_url=upstream.url)
        self.put("dev", bases=["root/mirror"])
        self.put("white", bases=["root/mirror"], mirror_whitelist=["*"])

    def put(self, index: str, **config: object) -> None:
        """Create an index of root's."""
        answer = call_devpi(f"{self.devpi}/root/{index}", "PUT", {"volatile": True, **config}, token=self.token)
        assert answer.status == 200, answer

    def delete(self, index: str) -> None:
        """Delete an index of root's."""
        assert call_devpi(f"{self.devpi}/root/{index}", "DELETE", token=self.token).status == 201

    def patch(self, index: str, **config: object) -> None:
        """Change an index of root's, as `devpi index` does."""
        changes = [f"{key}={value}" for key, value in config.items()]
        assert call_devpi(f"{self.devpi}/root/{index}", "PATCH", changes, token=self.token).status == 200

    def upload(self, index: str, project: str) -> None:
        """Upload a file of a project without reading anything, which would ask the mirror."""
        body, kind = upload_form(project, b"x")
        answer = call_devpi(f"{self.devpi}/root/{index}/", "POST", body, token=self.token, kind=kind)
        assert answer.status == 200, answer

    def page(self, index: str, project: str) -> Page:
        """A project's page in an index."""
        answer = request(f"{self.devpi}/root/{index}/+simple/{project}/", accept=JSON)
        files = len(answer.json["files"]) if answer.status == 200 else 0
        return Page(answer.status, files, answer.headers.get("Retry-After"))
