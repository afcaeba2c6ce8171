"""Password checks are limited: many of them exhaust neither the memory nor the answers of other clients."""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from testbed.plugins import installed_plugin
from testbed.sampling import RssWatch
from tests.support.container import (
    Container,
    call_devpi,
    cleared_away,
    login,
    login_token,
    wait_for,
)
from tests.support.timed import JSON, ask

pytestmark = pytest.mark.alone

CLIENTS = 90
SECONDS = 2.0
P99_SECONDS = 0.5
"""Maximum seconds that other clients wait for `+api`, except for one answer in a hundred."""


def crowd(request: Callable[[str], tuple[int, float]], passwords: Iterator[str], clients: int) -> Counter[int]:
    """Run so many clients for `SECONDS`, each request with the next password; return the number of answers by status.

    They take the passwords from one iterator, in C, so that it needs no lock.
    """
    statuses: Counter[int] = Counter()
    end = time.monotonic() + SECONDS

    def client() -> None:
        while time.monotonic() < end:
            statuses[request(next(passwords))[0]] += 1

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


class Bystander:
    """A client without a password, in its own process, that requests `+api` again and again."""

    SOURCE = """
import http.client, sys, time
while True:
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30)
    connection.request("GET", "/+api")
    answer = connection.getresponse()
    answer.read()
    connection.close()
    print(answer.status, time.monotonic() - began, flush=True)
"""

    def __init__(self, port: int) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", self.SOURCE, str(port)], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it has started

    def over(self) -> list[float]:
        """Stop it; return the seconds of each answer. Every one must have been 200."""
        self._process.terminate()
        said, _ = self._process.communicate(timeout=30)
        answers = [line.split() for line in said.decode().splitlines()[:-1]]  # the last may be incomplete
        assert {status for status, _ in answers} == {"200"}
        return [float(seconds) for _, seconds in answers]


def new_passwords() -> Iterator[str]:
    """Return wrong passwords, each different from all before."""
    return map("wrong {}".format, itertools.count())


@pytest.mark.parametrize("shape", ["basic", "devpi-auth", "login", "login behind a path", "login%0A"])
def test_a_crowd_of_passwords(container: Callable[..., Container], shape: str) -> None:
    """90 clients with new passwords: memory stays small, most shall retry, other clients are answered.

    `+api` in under 0.5 s at p99, in the best of three rounds: other work on the machine may disturb one, not all.
    """
    behind = ("--outside-url", "https://host.example/devpi") if shape == "login behind a path" else ()
    devpi = container(flags=behind).start().wait_ready()
    port = int(devpi.devpi.rpartition(":")[2])

    def request(password: str) -> tuple[int, float]:
        if shape in ("basic", "devpi-auth"):
            header = {"basic": "Authorization", "devpi-auth": "X-Devpi-Auth"}[shape]
            return ask(port, "GET", "/+api", credentials(header, "root", password))
        # `%0A`: a login to pyramid's routes, too
        path = {"login": "/+login", "login behind a path": "/devpi/+login", "login%0A": "/+login%0A"}[shape]
        return ask(port, "POST", path, {}, json.dumps({"user": "root", "password": password}))

    statuses = under_a_crowd(devpi, lambda: crowd(request, new_passwords(), CLIENTS))
    assert statuses[503] > statuses[200] + statuses[401] > 0


def test_eighty_clients_with_eight_wrong_passwords(container: Callable[..., Container]) -> None:
    """Equal checks share a run, and those that wait leave threads for others; no client is refused."""
    devpi = container().start().wait_ready()
    port = int(devpi.devpi.rpartition(":")[2])
    wrong = itertools.cycle(f"wrong {number}" for number in range(8))

    def request(password: str) -> tuple[int, float]:
        return ask(port, "GET", "/+api", credentials("Authorization", "root", password))

    statuses = under_a_crowd(devpi, lambda: crowd(request, wrong, 80))
    assert {200} == set(statuses)


def under_a_crowd(devpi: Container, once: Callable[[], Counter[int]]) -> Counter[int]:
    """Return the statuses of all rounds; up to three, until another client was answered in time."""
    port = int(devpi.devpi.rpartition(":")[2])
    rounds: list[float] = []
    statuses: Counter[int] = Counter()
    with RssWatch(devpi.devpi_pid, 0.01) as memory:
        for _ in range(3):
            bystander = Bystander(port)
            try:
                statuses += once()
            finally:
                times = sorted(bystander.over())
            rounds.append(times[int(len(times) * 0.99)])
            if rounds[-1] < P99_SECONDS:
                break
    assert set(statuses) <= {200, 401, 503}
    assert max(memory.values) < 160 * 2**20  # one check is 64 MiB, devpi-server 60
    assert min(rounds) < P99_SECONDS, rounds
    assert devpi.get("/readyz").status == 200
    return statuses


def test_an_honest_client_gets_in(container: Callable[..., Container]) -> None:
    """Admission agrees with devpi: right and wrong passwords, tokens, unknown users, both headers."""
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


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """root's password is `of-root`; alice's `of-alice`."""
    env = {"DEVPI_PASSWORD": "of-root"}
    with cleared_away(Container(tmp_path_factory.mktemp("shared"), env=env)) as container:
        container.start().wait_ready()
        alice = {"password": "of-alice"}
        token = login_token(container.devpi, "of-root")
        assert call_devpi(f"{container.devpi}/alice", "PUT", alice, token=token).status == 201
        yield container


def credentials(header: str, user: str, password: str) -> dict[str, str]:
    value = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {header: f"Basic {value}" if header == "Authorization" else value}


def post_login(port: int, headers: dict[str, str], user: object, password: object, padding: int = 0) -> tuple[int, str]:
    """Return the status and the token's user: empty without a token."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        body = json.dumps({"user": user, "password": password}) + " " * padding
        connection.request("POST", "/+login", body, JSON | headers)
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            return answer.status, ""
        token = json.loads(said)["result"]["password"]
        return 200, str(json.loads(token.rsplit(".", 2)[0])[0])
    finally:
        connection.close()


@pytest.mark.parametrize("header", ["Authorization", "X-Devpi-Auth"])
@pytest.mark.parametrize(
    ("more", "password", "padding", "status"),
    [
        ({}, "wrong", 0, 401),
        ({}, 1, 0, 400),  # plain devpi-server answers 500
        ({}, "wrong", 70_000, 413),
        ({"X-Outside-Url": "http://host.example/path"}, "wrong", 0, 401),
    ],
)
def test_a_login_is_judged_by_its_body_alone(
    shared: Container, header: str, more: dict[str, str], password: object, padding: int, status: int
) -> None:
    """A client with its own password neither becomes another user by it, nor fails because of another's."""
    port = int(shared.devpi.rpartition(":")[2])
    alice = credentials(header, "alice", "of-alice")
    assert (status, "") == post_login(port, alice | more, "root", password, padding)
    assert (200, "root") == post_login(port, alice | more, "root", "of-root")
    wrong = credentials(header, "root", "wrong")
    assert (200, "alice") == post_login(port, wrong | more, "alice", "of-alice")


@pytest.mark.parametrize("header", ["Authorization", "X-Devpi-Auth"])
def test_a_password_in_a_header_says_who_asks_and_no_more(
    container: Callable[..., Container], tmp_path: Path, header: str
) -> None:
    """A plugin that checks another password in the same request, before devpi knows the user, and after."""
    plugin = installed_plugin(
        tmp_path / "plugin",
        "second_login",
        "from pluggy import HookimplMarker\n"
        "from pyramid.interfaces import ISecurityPolicy\n"
        "from pyramid.response import Response\n"
        "def second(request):\n"
        "    asks = request.authenticated_userid if 'after' in request.params else None\n"
        "    auth = request.registry.getUtility(ISecurityPolicy).auth\n"
        "    return Response(json_body=[asks, auth.new_proxy_auth('root', 'wrong', request=request)])\n"
        "@HookimplMarker('devpiserver')\n"
        "def devpiserver_pyramid_configure(config, pyramid_config):\n"
        "    pyramid_config.add_route('/+second', '/+second')\n"
        "    pyramid_config.add_view(second, route_name='/+second')\n",
    )
    devpi = container(env={"DEVPI_PASSWORD": "of-root"} | plugin).start().wait_ready()
    port = int(devpi.devpi.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        for when, asks in (("before", None), ("after", "root")):
            connection.request("GET", f"/+second?{when}=", headers=credentials(header, "root", "of-root"))
            assert [asks, None] == json.load(connection.getresponse())
    finally:
        connection.close()


def test_a_plugin_may_find_credentials_elsewhere(container: Callable[..., Container], tmp_path: Path) -> None:
    """Passwords in a plugin's own header are limited, too, and right ones are accepted."""
    plugin = installed_plugin(
        tmp_path / "plugin",
        "elsewhere",
        "from pluggy import HookimplMarker\n"
        "@HookimplMarker('devpiserver')\n"
        "def devpiserver_get_credentials(request):\n"
        "    said = request.headers.get('X-Elsewhere')\n"
        "    return tuple(said.split(':')) if said else None\n",
    )
    devpi = container(env={"DEVPI_PASSWORD": "of-root"} | plugin).start().wait_ready()
    port = int(devpi.devpi.rpartition(":")[2])
    with ThreadPoolExecutor(CLIENTS) as pool:
        asked = [pool.submit(ask, port, "GET", "/+api", {"X-Elsewhere": f"root:{n}"}) for n in range(CLIENTS)]
        assert {200, 503} == {each.result()[0] for each in asked}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/+api", headers=JSON | {"X-Elsewhere": "root:of-root"})
        assert ["ok", "root"] == json.load(connection.getresponse())["result"]["authstatus"][:2]
    finally:
        connection.close()


@pytest.mark.parametrize("how", ["login", "Authorization", "X-Devpi-Auth"])
def test_who_waits_while_the_password_changes_has_the_old_one_no_more(
    container: Callable[..., Container], tmp_path: Path, how: str
) -> None:
    """A plugin holds a request between the check and devpi's transaction, and meanwhile root's password rotates."""
    plugin = installed_plugin(
        tmp_path / "plugin",
        "hold_up",
        "import pathlib, time\n"
        "from pluggy import HookimplMarker\n"
        "def factory(handler, registry):\n"
        "    def tween(request):\n"
        "        if here := request.headers.get('X-Hold-Up'):\n"
        "            pathlib.Path(here, 'held').touch()\n"
        "            while not pathlib.Path(here, 'go').exists():\n"
        "                time.sleep(0.01)\n"
        "        return handler(request)\n"
        "    return tween\n"
        "@HookimplMarker('devpiserver')\n"
        "def devpiserver_pyramid_configure(config, pyramid_config):\n"
        "    pyramid_config.add_tween('hold_up.factory', under='sidecar.worker.patches.auth.tween_factory',\n"
        "                             over='devpi_server.views.tween_keyfs_transaction')\n",
    )
    devpi = container(env={"DEVPI_PASSWORD": "of-root"} | plugin).start().wait_ready()
    port = int(devpi.devpi.rpartition(":")[2])
    held = {"X-Hold-Up": str(tmp_path)}
    if how == "login":
        asked: tuple[object, ...] = (post_login, port, held, "root", "of-root")
    else:
        patch = json.dumps({"password": "of-somebody-else"})
        asked = (ask, port, "PATCH", "/root", held | credentials(how, "root", "of-root"), patch)
    with ThreadPoolExecutor() as pool:
        try:
            answer = pool.submit(*asked)  # type: ignore[arg-type]
            wait_for((tmp_path / "held").exists, "the held request")
            rotated = devpi.post("/bootstrap/rotate")
            assert rotated.status == 200
        finally:
            (tmp_path / "go").touch()
        assert answer.result()[0] in (401, 403)  # type: ignore[index]
    assert 200 == devpi.login("root", rotated.json["password"])
