"""A real waitress server in a thread, and its clients."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from waitress import wasyncore
from waitress.server import create_server

from sidecar.worker.patches.drain import Drainer
from sidecar.worker.patches.waitress import ConnectionLimit

PATIENCE = 60.0
"""Seconds after which a wait fails; also a grace that is longer than any test."""
BODY = b"0123456789abcdef" * 500_000
"""8 MB: more than the kernel's buffers and waitress' first buffer hold."""
LOOPBACK = f"127.{os.getpid() >> 16 & 127}.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"
"""An address only for this process: parallel tests can't bind a port that was closed here."""
Environ = dict[str, Any]


class Server:
    """waitress in a thread, with an app for downloads, uploads, requests that wait, and its own addresses."""

    def __init__(self, **adjustments: Any) -> None:
        self.go_on = threading.Event()
        self.waiting = threading.Semaphore(0)
        self._server = create_server(self.app, threads=8, **adjustments)
        self._map = self._server.map if hasattr(self._server, "map") else self._server._map
        self.drainer = Drainer(self._server)
        ConnectionLimit(self.drainer.listeners, self.drainer.begun)
        self._thread = threading.Thread(target=self._server.run, name="waitress")
        self._thread.start()

    def app(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve `/download`, `/upload`, `/wait`, `/environ`; answer `hello` to anything else."""
        path, body = environ["PATH_INFO"], b"hello"
        if path == "/download":
            body = BODY
        elif path == "/upload":
            body = str(len(environ["wsgi.input"].read())).encode()
        elif path == "/wait":
            self.waiting.release()
            assert self.go_on.wait(PATIENCE)
        elif path == "/environ":
            names = ("SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR", "REMOTE_HOST", "wsgi.url_scheme")
            body = json.dumps({name: environ[name] for name in names}).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body[start : start + 65536] for start in range(0, len(body), 65536)]

    @property
    def listeners(self) -> list[Any]:
        """Return waitress' listening dispatchers."""
        return self.drainer.listeners

    def drain(self, grace: float = PATIENCE, *, keep_listening: bool = False) -> Future[int]:
        """Begin to drain; the future returns how many connections were cut."""
        drained: Future[int] = Future()

        def drain() -> None:
            drained.set_result(self.drainer.drain(grace, keep_listening=keep_listening))

        threading.Thread(target=drain, daemon=True).start()
        return drained

    def wait_until_idle(self) -> None:
        """Wait until no request is running: waitress sets `last_activity` again after the client has the answer."""
        deadline = time.monotonic() + PATIENCE
        dispatcher = self._server.task_dispatcher
        while dispatcher.active_count or dispatcher.queue:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def wait_until_listeners_are_closed(self) -> None:
        """Wait until this server's own sockets are closed."""
        deadline = time.monotonic() + PATIENCE
        while any(listener.socket is not None for listener in self.listeners):
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def hold_up(self) -> None:
        """Block waitress' loop until `go_on`, in a callback of another listener than the first."""
        held = threading.Event()

        def hold() -> None:
            held.set()
            assert self.go_on.wait(PATIENCE)

        self.listeners[1].trigger.pull_trigger(hold)
        assert held.wait(PATIENCE)

    def stop(self) -> None:
        """End waitress' loop despite open connections."""
        self.go_on.set()
        if self._thread.is_alive():
            with suppress(OSError):  # the callback may close the trigger before it is pulled again
                self.listeners[0].trigger.pull_trigger(lambda: wasyncore.close_all(self._map))
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self._server.task_dispatcher.shutdown()


class Client:
    """One connection, read and written byte by byte."""

    def __init__(self, address: str) -> None:
        if address.startswith("unix:"):
            self.socket = socket.socket(socket.AF_UNIX)
        else:
            self.socket = socket.socket()
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.socket.settimeout(PATIENCE)
        try:
            if address.startswith("unix:"):
                self.socket.connect(address.removeprefix("unix:"))
            else:
                host, _, port = address.removeprefix("http://").rpartition(":")
                self.socket.connect((host, int(port)))
        except OSError:
            self.socket.close()
            raise
        self._rest = b""
        self.head: list[bytes] = []
        """The header lines of the last answer."""

    def say(self, text: str, body: bytes = b"") -> None:
        self.socket.sendall(f"{text} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    def begin_upload(self, body: bytes) -> None:
        """Send the head of an upload and the first half of its body."""
        self.socket.sendall(f"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        self.socket.sendall(body[: len(body) // 2])

    def hear(self) -> bytes:
        """Read one answer, and return its body."""
        while b"\r\n\r\n" not in self._rest:
            self._more()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        self.head = head.splitlines()
        assert self.head[0] in (b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK")
        (length,) = (
            int(line.split(b":")[1]) for line in head.splitlines() if line.lower().startswith(b"content-length")
        )
        while len(self._rest) < length:
            self._more()
        body, self._rest = self._rest[:length], self._rest[length:]
        return body

    def _more(self) -> None:
        more = self.socket.recv(65536)
        assert more, "the connection was cut"
        self._rest += more

    def heard_the_end(self) -> bool:
        """Wait for the end of the connection or more data; whether it ended without more data."""
        try:
            return self.socket.recv(1) == b"" and not self._rest
        except ConnectionResetError:
            return False
