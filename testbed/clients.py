"""Clients of one devpi-server that install and upload until stopped."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections import Counter
from http.client import HTTPConnection, HTTPException
from typing import Any

_BOUNDARY = "BOUND"


class Clients:
    """Clients in threads, for `with`: every fourth one uploads, the others download; each over a kept connection.

    None of them retries.
    """

    def __init__(self, netloc: str, password: str, count: int) -> None:
        """Create an index with a file. `netloc`: devpi-server's `host:port`; `password`: root's."""
        self._netloc = netloc
        self._auth: dict[str, str] = {}
        token = self._json("POST", "/+login", {"user": "root", "password": password})["result"]["password"]
        self._auth = {"X-Devpi-Auth": base64.b64encode(f"root:{token}".encode()).decode()}
        self._json("PUT", "/root/clients", {"bases": [], "volatile": True})
        connection = HTTPConnection(netloc, timeout=60)
        assert self._upload(connection, "hello", 200_000) == 200
        connection.close()
        found = self._json("GET", "/root/clients/hello")["result"]["1.0"]["+links"][0]["href"]
        self._file = found.partition(netloc)[2]
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._go, args=(number,)) for number in range(count)]
        self.done: Counter[str] = Counter()
        """`page`, `file` or `upload` with the status → number of answers."""
        self.failures: list[str] = []
        """Connections refused, reset, or closed without an answer."""
        self.longest = 0.0
        """Seconds of the slowest answer, including the connect."""
        self._uploaded: list[str] = []

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def answered(self) -> int:
        """Return the number of answers so far."""
        return sum(self.done.values())

    def lost(self) -> list[str]:
        """Return projects whose upload was acknowledged but that don't exist."""
        found = self._json("GET", "/root/clients")["result"]["projects"]
        return sorted(set(self._uploaded) - set(found))

    def _go(self, number: int) -> None:
        connection: HTTPConnection | None = None
        for turn in range(10**6):
            if self._stop.is_set():
                break
            if connection is None:
                connection = HTTPConnection(self._netloc, timeout=60)
            began = time.monotonic()
            try:
                self.done[self._act(connection, number, turn)] += 1
                self.longest = max(self.longest, time.monotonic() - began)
                if connection.sock is None:  # the server closes it
                    connection = None
            except (OSError, HTTPException) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                connection = None
            time.sleep(0.005 * (number + 1))
        if connection is not None:
            connection.close()

    def _act(self, connection: HTTPConnection, number: int, turn: int) -> str:
        if number % 4 == 0:
            name = f"up{number}-{turn}"
            status = self._upload(connection, name, 20_000)
            if status == 200:
                self._uploaded.append(name)
            return f"upload {status}"
        kind, path = ("file", self._file) if turn % 2 else ("page", "/root/clients/+simple/hello/")
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return f"{kind} {answer.status}"

    def _upload(self, connection: HTTPConnection, name: str, size: int) -> int:
        """Upload `NAME-1.0.tar.gz` as twine does; return the status."""
        fields = {":action": "file_upload", "name": name, "version": "1.0", "metadata_version": "1.0"}
        parts = [
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
            for field, value in (fields | {"filetype": "sdist"}).items()
        ]
        parts.append(
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="content"; filename="{name}-1.0.tar.gz"\r\n\r\n'
        )
        body = "".join(parts).encode() + os.urandom(size) + f"\r\n--{_BOUNDARY}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}", **self._auth}
        connection.request("POST", "/root/clients/", body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    def _json(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        connection = HTTPConnection(self._netloc, timeout=60)
        try:
            headers = {"Accept": "application/json", "Content-Type": "application/json", **self._auth}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            content: dict[str, Any] = json.loads(answer.read())
            assert answer.status in (200, 201), (answer.status, content)
            return content
        finally:
            connection.close()
