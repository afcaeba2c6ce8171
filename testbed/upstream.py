"""A package index on loopback for mirrors: any number of names, generated pages and wheels, and injected faults.

`python -m testbed.upstream NAMES` serves one until it is interrupted, and prints its URL.
"""

from __future__ import annotations

import asyncio
import functools
import json
import socket
import sys
import threading
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web

from testbed import packages

PYPI_NAMES = 650_000
"""The number of projects on PyPI."""
JSON = "application/vnd.pypi.simple.v1+json"


@dataclass(frozen=True)
class Fault:
    """A wrong answer."""

    status: int = 0
    """Answer with this status."""
    retry_after: str | None = None
    """The header Retry-After of that answer."""
    cut: bool = False
    """Close the connection in the middle of the body."""
    garbage: bool = False
    """200 and the right content type, with a body that is not JSON."""
    hang: bool = False
    """Do not answer until `Upstream.release`."""


HANGS, CUT, GARBAGE = Fault(hang=True), Fault(cut=True), Fault(garbage=True)


class Upstream:
    """The index in its own thread, for `with`. Attributes may change while it serves."""

    def __init__(
        self, names: Iterable[str] = (), *, size: int = 0, versions: int = 1, delay: float = 0.0, file_bytes: int = 0
    ) -> None:
        """Projects: `names` and `size` more, each with `versions` wheels of 4 kB or `file_bytes`."""
        self._names = frozenset(names)
        self._size = size
        self._file_bytes = file_bytes
        self.versions = versions
        self.delay = delay
        """Seconds before each answer."""
        self.page_fault: Fault | None = None
        """For the pages of projects."""
        self.list_fault: Fault | None = None
        """For the list of all projects."""
        self.file_fault: Fault | None = None
        self.etag: str | None = None
        """Of the list: a request with it gets 304."""
        self.asked: list[str] = []
        """The paths of all requests so far."""
        self.port = 0
        self._listing: bytes | None = None
        self._runner: web.AppRunner | None = None
        self._loop = asyncio.new_event_loop()
        self._released = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="upstream", daemon=True)

    def __enter__(self) -> Self:
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
        return f"http://127.0.0.1:{self.port}/simple/"

    def listen(self) -> None:
        """Accept connections, on the same port as before."""
        if self._runner is None:
            self._do(self._listen())

    def refuse(self) -> None:
        """Refuse connections from now on."""
        self._do(self._refuse())

    def release(self) -> None:
        """Cut all hanging requests."""
        self._do(self._release())

    def heal(self) -> None:
        """Remove all faults."""
        self.page_fault = self.list_fault = self.file_fault = None
        self.release()
        self.listen()

    def names(self) -> Iterable[str]:
        """Yield all names of the list."""
        yield from self._names
        yield from map(numbered, range(self._size))

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _listen(self) -> None:
        app = web.Application()
        app.router.add_get("/simple/", self._list)
        app.router.add_get("/simple/{name}/", self._page)
        app.router.add_get("/files/{name}/{filename}", self._file)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await runner.setup()
        listening = socket.create_server(("127.0.0.1", self.port), backlog=128)
        await web.SockSite(runner, listening).start()
        self.port = listening.getsockname()[1]
        self._runner = runner

    async def _release(self) -> None:
        self._released.set()
        self._released = asyncio.Event()

    async def _refuse(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _list(self, request: web.Request) -> web.StreamResponse:
        etag = self.etag
        if etag is not None and request.headers.get("If-None-Match") == etag and self.list_fault is None:
            self.asked.append(request.path)
            return web.Response(status=304, headers={"ETag": etag})
        if self._listing is None:
            self._listing = json.dumps(
                {"meta": {"api-version": "1.3", "_last-serial": 1}, "projects": [{"name": n} for n in self.names()]}
            ).encode()
        return await self._answer(request, self._listing, self.list_fault, {"ETag": etag} if etag is not None else {})

    async def _page(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if not self._has(name):
            return await self._answer(request, b"", self.page_fault or Fault(404), {})
        return await self._answer(
            request, page(name, self.versions, self._file_bytes), self.page_fault, {"X-PyPI-Last-Serial": "7"}
        )

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name, filename = request.match_info["name"], request.match_info["filename"]
        version = filename.split("-")[1]
        if not self._has(name) or wheel(name, version, self._file_bytes).filename != filename:
            return await self._answer(request, b"", Fault(404), {})
        content = wheel(name, version, self._file_bytes).content
        return await self._answer(request, content, self.file_fault, {}, "application/octet-stream")

    async def _answer(
        self, request: web.Request, body: bytes, fault: Fault | None, headers: dict[str, str], kind: str = JSON
    ) -> web.StreamResponse:
        self.asked.append(request.path)
        if self.delay:
            await asyncio.sleep(self.delay)
        if fault is not None and fault.hang:
            await self._released.wait()
            if request.transport is None or request.transport.is_closing():
                return web.Response()  # the client has disconnected
            fault = CUT
        if fault is not None and fault.status:
            headers = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
            return web.Response(status=fault.status, text="injected fault", headers=headers)
        if fault is not None and fault.garbage:
            return web.Response(body=b'{"meta": {"api-ver', content_type=kind)
        if fault is not None and fault.cut:
            response = web.StreamResponse(headers={"Content-Length": str(len(body) + 1), "Content-Type": kind})
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
            assert request.transport is not None
            request.transport.abort()
            return response
        return web.Response(body=body, content_type=kind, headers=headers)

    def _has(self, name: str) -> bool:
        number = name.removeprefix(_NUMBERED)
        return name in self._names or (
            number != name and number.isdigit() and int(number) < self._size and numbered(int(number)) == name
        )


_NUMBERED = "package-of-upstream-"


def numbered(number: int) -> str:
    """Return the name of one of the `size` projects."""
    return f"{_NUMBERED}{number:06d}"


@functools.lru_cache(4096)
def wheel(name: str, version: str, size: int = 0) -> packages.Package:
    """Return a wheel of a project; with `size`, it has so many random bytes."""
    made = packages.wheel(name, version, 7)
    if not size:
        return made
    large = packages.large_wheel(name, version, _blocks(size))
    return packages.Package(name, version, large.filename, large.before + _blocks(size).content + large.after)


@functools.lru_cache(2)
def _blocks(size: int) -> packages.Blocks:
    return packages.Blocks(7, size)


@functools.lru_cache(4096)
def page(name: str, versions: int, size: int = 0) -> bytes:
    """Return the page of a project by PEP 691."""
    wheels = [wheel(name, f"1.{number}", size) for number in range(versions)]
    files = [
        {
            "filename": each.filename,
            "url": f"/files/{name}/{each.filename}",
            "hashes": {"sha256": each.digest},
            "requires-python": ">=3.9",
        }
        for each in wheels
    ]
    return json.dumps({"meta": {"api-version": "1.1"}, "name": name, "files": files}).encode()


def main() -> None:
    """See the module's docstring."""
    with Upstream(size=int(sys.argv[1])) as upstream:
        print(upstream.url, flush=True)
        try:
            time.sleep(1e9)
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
