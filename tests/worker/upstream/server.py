"""A small upstream on loopback, and a client of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

from sidecar.worker.upstream import lookup
from sidecar.worker.upstream.upstream_client import UpstreamClient

_T = TypeVar("_T")
PUBLIC = "93.184.215.14"
"""A public address, which no test connects to."""


class Server(ThreadingHTTPServer):
    """Answers by `answer(handler)`; notes requests and connections."""

    daemon_threads = True

    def __init__(self, answer: Callable[[Handler], None], tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.tls = tls
        self.connections = 0
        self.requests: list[tuple[str, str, dict[str, str]]] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections += 1
        if self.tls is not None:
            connection.settimeout(10)
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, *args: object) -> None:
        """A client that leaves is no error of the test."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: object) -> None:
        """Keep quiet."""

    def _any(self) -> None:
        self.server.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        self.server.answer(self)

    do_GET = do_HEAD = do_CONNECT = _any

    def send(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        """Answer; names of headers with underscores."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextlib.contextmanager
def serving(answer: Callable[[Handler], None], tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Serve until the end of the block."""
    server = Server(answer, tls)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@contextlib.contextmanager
def raw_server(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """Accept connections on loopback, and hand each one to `talk`, in a thread; yields the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def accept() -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=run, args=(connection,), daemon=True).start()

    def run(connection: socket.socket) -> None:
        connection.settimeout(20)
        with contextlib.suppress(OSError), connection:
            talk(connection)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        ended.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


_loops: dict[UpstreamClient, asyncio.AbstractEventLoop] = {}


def run(client: UpstreamClient, coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run it on the client's event loop."""
    return asyncio.run_coroutine_threadsafe(coroutine, _loops[client]).result(60)


@contextlib.contextmanager
def client_of(
    url: str,
    /,
    *,
    index: str = "root/pypi",
    timeout: float = 20.0,
    resolver: Callable[[str], Sequence[str]] = lookup.resolve,
    **settings: Any,
) -> Iterator[UpstreamClient]:
    """A client with an event loop in a thread, as devpi has it; both end with the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    client = UpstreamClient(index, url, settings, timeout=timeout, resolver=resolver)
    _loops[client] = loop
    try:
        yield client
    finally:
        client.close()
        del _loops[client]
        gc.collect()  # finalises generators of bodies that were not read to their end
        asyncio.run_coroutine_threadsafe(_settle(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _settle() -> None:
    """Wait for what the loop has still to do: the ends of such generators."""
    await asyncio.get_running_loop().shutdown_asyncgens()
    if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(tasks, timeout=5)


def only_loopback(host: str) -> Sequence[str]:
    """Resolve every name to this machine."""
    return ["127.0.0.1"]
