"""Password checks are bounded: a crowd of them takes neither the memory nor the answers of everybody else."""

from __future__ import annotations

import base64
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from bench.sampling import RssWatch
from tests.integration.container import Container, login

CLIENTS = 90
SECONDS = 2.0
JSON = {"Accept": "application/json", "Content-Type": "application/json"}
BASIC = {"Authorization": "Basic " + base64.b64encode(b"root:not the password").decode()}
DEVPI_AUTH = {"X-Devpi-Auth": base64.b64encode(b"root:not the password").decode()}


def ask(port: int, method: str, path: str, headers: dict[str, str], body: str | None = None) -> tuple[int, float]:
    """One request over a new connection; its status, and how long it took in seconds."""
    begin = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, JSON | headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status, time.monotonic() - begin
    finally:
        connection.close()


def crowd(request: Callable[[], tuple[int, float]]) -> Counter[int]:
    """`CLIENTS` clients that ask again and again for `SECONDS`; how often which status came."""
    statuses: Counter[int] = Counter()
    end = time.monotonic() + SECONDS

    def client() -> None:
        while time.monotonic() < end:
            statuses[request()[0]] += 1

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


@pytest.mark.parametrize("shape", ["basic", "devpi-auth", "login"])
def test_a_crowd_of_passwords(container: Callable[..., Container], shape: str) -> None:
    """90 clients with a password each: memory stays small, most are told to come again, `+api` answers others."""
    devpi = container().start().wait_ready()
    port = int(devpi.devpi.rpartition(":")[2])
    body = json.dumps({"user": "root", "password": "not the password"})
    requests = {
        "basic": lambda: ask(port, "GET", "/+api", BASIC),
        "devpi-auth": lambda: ask(port, "GET", "/+api", DEVPI_AUTH),
        "login": lambda: ask(port, "POST", "/+login", {}, body),
    }
    times: list[float] = []
    over = threading.Event()

    def bystander() -> None:
        while not over.is_set():
            status, seconds = ask(port, "GET", "/+api", {})
            assert status == 200
            times.append(seconds)

    with RssWatch(devpi.devpi_pid, 0.01) as memory:
        thread = threading.Thread(target=bystander)
        thread.start()
        statuses = crowd(requests[shape])
        over.set()
        thread.join()
    assert max(memory.values) < 160 * 2**20  # one check is 64 MiB, devpi-server 60
    assert set(statuses) <= {200, 401, 503}
    assert statuses[503] > statuses[200] + statuses[401] > 0
    assert sorted(times)[int(len(times) * 0.9)] < 1.5  # the figure, 0.5 s at p99, needs a quiet machine
    assert devpi.get("/readyz").status == 200


def test_an_honest_client_gets_in(container: Callable[..., Container]) -> None:
    """What admission found out is what devpi says: right and wrong passwords, tokens, unknown users, both headers."""
    devpi = container(env={"DEVPI_PASSWORD": "päss:word"}).start().wait_ready()
    port = int(devpi.devpi.rpartition(":")[2])

    def authstatus(header: str, user: str, password: str) -> list[object]:
        value = base64.b64encode(f"{user}:{password}".encode()).decode()
        headers = JSON | {header: f"Basic {value}" if header == "Authorization" else value}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", "/+api", headers=headers)
            status: list[object] = json.load(connection.getresponse())["result"]["authstatus"]
            return status
        finally:
            connection.close()

    status, token = login(devpi.devpi, "root", "päss:word")
    assert (status, token is not None) == (200, True)
    for header in ("Authorization", "X-Devpi-Auth"):
        assert authstatus(header, "root", "päss:word")[:2] == ["ok", "root"]
        assert authstatus(header, "root", str(token))[:2] == ["ok", "root"]
        assert authstatus(header, "root", "wrong")[0] != "ok"
        assert authstatus(header, "nobody", "päss:word")[0] != "ok"
    assert login(devpi.devpi, "root", "wrong")[0] == 401
    assert login(devpi.devpi, "nobody", "päss:word")[0] == 401
