"""Requests to devpi-server over separate connections, and their durations."""

from __future__ import annotations

import base64
import http.client
import time

JSON = {"Accept": "application/json", "Content-Type": "application/json"}
BASIC = {"Authorization": "Basic " + base64.b64encode(b"root:not the password").decode()}


def ask(
    port: int, method: str, path: str, headers: dict[str, str], body: str | None = None, timeout: float = 30
) -> tuple[int, float]:
    """One request over a new connection; its status and its duration in seconds."""
    begin = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, JSON | headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status, time.monotonic() - begin
    finally:
        connection.close()
