"""A package index on loopback for mirrors: any number of names, generated pages and files, and injected faults.

`python -m testbed.upstream NAMES [HOST]` serves one until it is interrupted, and prints its URL, then the path of each
request.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import random
import socket
import sys
import threading
import time
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Self

from aiohttp import web

from testbed import upstream_pages as pages
from testbed.upstream_faults import CUT, GARBAGE, HANGS, LOGIN_PAGE, Fault, answer, stream
from testbed.upstream_pages import HTML, JSON, PYPI_NAMES, Project, numbered
from testbed.upstream_tls import Tls

__all__ = ["CUT", "GARBAGE", "HANGS", "JSON", "PYPI_NAMES", "Fault", "Project", "Upstream", "numbered"]

_OCTETS = "application/octet-stream"
_FAULTLESS = Fault()
_QUEUE = 128
_ORDINARY = Project()


class Upstream:
    """The index in its own thread, for `with`. Attributes may change while it serves."""

    def __init__(
        self,
        names: Iterable[str] = (),
        *,
        size: int = 0,
        versions: int = 1,
        delay: float | tuple[float, float] = 0.0,
        file_bytes: int = 0,
        projects: Mapping[str, Project] | None = None,
        one_invalid_in: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        """Projects: `names`, those of `projects` and `size` more, each with `versions` wheels of 4 kB or `file_bytes`.

        `one_invalid_in`: in the list, one name of so many is invalid; 0: none.
        """
        self.projects = dict(projects or {})
        self._names = frozenset(names) | frozenset(self.projects)
        self._size = size
        self._usual = Project(file_bytes=file_bytes) if file_bytes else _ORDINARY
        self._one_invalid_in = one_invalid_in
        self._host = host
        self.versions = versions
        self.delay = delay
        """Seconds before each answer; a pair: between these."""
        self.page_fault: Fault | None = None
        """For the pages of projects."""
        self.list_fault: Fault | None = None
        """For the list of all projects."""
        self.file_fault: Fault | None = None
        self.etag: str | None = None
        """Of the list: a request with it gets 304."""
        self.page_etag: str | None = None
        """Of all pages."""
        self.serial: int | None = 7
        """X-PyPI-Last-Serial of pages; None: without."""
        self.list_serial: int | None = None
        """X-PyPI-Last-Serial of the list; None: without."""
        self.as_html = False
        """Answer with HTML, as an index that does not know PEP 691."""
        self.files_at: str | None = None
        """The URL that `/files/` is below; None: of this server."""
        self.user: str | None = None
        """Require this `user:password` by HTTP basic authentication, otherwise 401."""
        self.asked: list[str] = []
        """The paths of all requests so far."""
        self.authorised: list[str] = []
        """The paths of those that had the header Authorization."""
        self.connections = 0
        """Accepted so far, before TLS."""
        self.port = 0
        self._chance = random.Random(0)
        self._lists: dict[bool, bytes] = {}
        self._listener = contextlib.ExitStack()
        """What serves on the port, to close."""
        self._runner: web.AppRunner | None = None
        self._loop = asyncio.new_event_loop()
        self._released = asyncio.Event()
        self._sends = itertools.count()
        self._tls: Tls | None = None
        self._speaks_tls = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="upstream", daemon=True)

    def __enter__(self) -> Self:
        self._project_list()  # now, because a large one takes seconds, in which no request would be answered
        self._thread.start()
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """The `mirror_url` for an index."""
        return f"http://{self._host}:{self.port}/simple/"

    @property
    def tls(self) -> Tls:
        """The authority of `listen_tls`."""
        if self._tls is None:
            self._tls = Tls()
        return self._tls

    def listen(self) -> None:
        """Accept connections, on the same port as before."""
        if self._runner is None or self._speaks_tls:
            self.refuse()
            self._do(self._listen(None))

    def listen_tls(self, kind: str) -> None:
        """Accept TLS on the same port instead, of one of `upstream_tls.KINDS`."""
        self.refuse()
        self._do(self._listen(kind))

    def refuse(self) -> None:
        """Refuse connections from now on."""
        self._do(self._refuse())

    def swallow(self) -> None:
        """Accept connections, and never read or answer."""
        self.refuse()
        self._do(self._swallow())

    def drop(self) -> None:
        """Have the kernel drop new connections, as a firewall: the queue is full, and nobody accepts."""
        self.refuse()
        listening = self._listener.enter_context(socket.create_server((self._host, self.port), backlog=0))
        for _ in range(2):  # the kernel queues one more than the backlog
            filling = self._listener.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(listening.getsockname())

    def release(self) -> None:
        """Cut all hanging requests."""
        self._do(self._release())

    def heal(self) -> None:
        """Remove all faults."""
        self.page_fault = self.list_fault = self.file_fault = None
        self.release()
        self.listen()

    def names(self) -> Iterable[str]:
        """Yield all names of projects."""
        yield from self._names
        yield from map(numbered, range(self._size))

    def add(self, name: str) -> None:
        """Have a project more."""
        self._names |= {name}
        self._lists.clear()

    def count(self, path: str) -> int:
        """Return the number of requests for a path so far."""
        return self.asked.count(path)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _listen(self, tls: str | None) -> None:
        app = web.Application()
        app.router.add_get("/simple/", self._list)
        app.router.add_get("/simple/{name}/", self._page)
        app.router.add_get("/files/{name}/{filename}", self._file)
        app.router.add_get("/login", self._login)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await runner.setup()
        serve = runner.server
        assert serve is not None

        def connected() -> asyncio.Protocol:
            self.connections += 1
            return serve()

        listening = socket.create_server((self._host, self.port), backlog=_QUEUE)
        context = None if tls is None else self.tls.context(tls)
        server = await self._loop.create_server(connected, sock=listening, backlog=_QUEUE, ssl=context)
        self._listener.callback(server.close)
        self.port = listening.getsockname()[1]
        self._runner, self._speaks_tls = runner, tls is not None

    async def _swallow(self) -> None:
        listening = socket.create_server((self._host, self.port), backlog=_QUEUE)

        async def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            self._listener.callback(writer.close)

        server = await asyncio.start_server(accepted, sock=listening, backlog=_QUEUE)
        self._listener.callback(server.close)

    async def _release(self) -> None:
        self._released.set()
        self._released = asyncio.Event()

    async def _refuse(self) -> None:
        self._listener.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _list(self, request: web.Request) -> web.StreamResponse:
        headers = {} if self.list_serial is None else {"X-PyPI-Last-Serial": str(self.list_serial)}
        if self._unchanged(request, self.etag, headers) and self.list_fault is None:
            self._note(request)
            return web.Response(status=304, headers=headers)
        return await self._answer(request, self._project_list(), self.list_fault, headers, self._kind)

    def _project_list(self) -> bytes:
        if self.as_html not in self._lists:
            names = pages.listed(self.names(), self._one_invalid_in)
            self._lists[self.as_html] = pages.project_list(names, as_html=self.as_html)
        return self._lists[self.as_html]

    async def _page(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        project = self.projects.get(name, self._usual)
        fault = project.page_fault or self.page_fault
        if not self._has(name):
            return await self._answer(request, b"", fault or Fault(404), {}, self._kind)
        headers = {} if self.serial is None else {"X-PyPI-Last-Serial": str(self.serial)}
        if self._unchanged(request, self.page_etag, headers) and fault is None:
            self._note(request)
            return web.Response(status=304, headers=headers)
        files_at = f"{self.files_at or '/files/'}{name}/"
        body = pages.page(name, project, self.versions, files_at, as_html=self.as_html)
        return await self._answer(request, body, fault, headers, self._kind)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name, filename = request.match_info["name"], request.match_info["filename"]
        project = self.projects.get(name, self._usual)
        fault = project.file_fault or self.file_fault
        if not self._has(name):
            return await self._answer(request, b"", Fault(404), {})
        for each in pages.files(name, project, self.versions) if project.streamed else ():
            if filename == each.name and fault is None:
                self._note(request)
                headers = {"Content-Length": str(each.size), "Content-Type": _OCTETS}
                with contextlib.suppress(ConnectionError):
                    return await stream(request, pages.blocks(each.size), headers)
                return web.Response()  # the client has disconnected
        if filename.endswith(".metadata"):
            found = {f"{each.name}.metadata": each.metadata for each in pages.files(name, project, self.versions)}
            held = found.get(filename)
        else:
            held = pages.content(name, filename, project, self.versions)
        if held is not None and project.changes and (number := next(self._sends)):
            held = b"%b, changed %d" % (held, number)
        return await self._answer(request, held or b"", fault if held is not None else Fault(404), {})

    async def _login(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, b"", LOGIN_PAGE, {})

    @property
    def _kind(self) -> str:
        return HTML if self.as_html else JSON

    def _note(self, request: web.Request) -> None:
        self.asked.append(request.path)
        if "Authorization" in request.headers:
            self.authorised.append(request.path)

    def _unchanged(self, request: web.Request, etag: str | None, headers: dict[str, str]) -> bool:
        """Whether the client has this ETag, which is added to the headers."""
        if etag is None:
            return False
        headers["ETag"] = etag
        return request.headers.get("If-None-Match") == etag

    async def _answer(
        self, request: web.Request, body: bytes, fault: Fault | None, headers: dict[str, str], kind: str = _OCTETS
    ) -> web.StreamResponse:
        self._note(request)
        low, high = self.delay if isinstance(self.delay, tuple) else (self.delay, self.delay)
        if high:
            await asyncio.sleep(self._chance.uniform(low, high))
        if self.user is not None:
            given = request.headers.get("Authorization")
            if given != f"Basic {base64.b64encode(self.user.encode()).decode()}":
                return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="upstream"'})
        return await answer(request, body, kind, headers, fault or _FAULTLESS, self._released)

    def _has(self, name: str) -> bool:
        return name in self._names or pages.is_numbered(name, self._size)


def main() -> None:
    """See the module's docstring."""
    host = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
    with Upstream(size=int(sys.argv[1]), host=host) as upstream:
        print(upstream.url, flush=True)
        shown = 0
        try:
            while True:
                for path in upstream.asked[shown:]:
                    print(path, flush=True)
                    shown += 1
                time.sleep(0.05)
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
