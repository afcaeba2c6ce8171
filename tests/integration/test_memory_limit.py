"""It starts, serves and survives many logins at once under the memory limit of a small pod."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.cgroup import Cgroup
from tests.support.container import ENTRYPOINT, PATIENCE, Container, call_devpi, login_token, request
from tests.support.timed import BASIC, ask

pytestmark = pytest.mark.slow

LIMIT = 192 * 2**20
LOGINS = 50


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    """A cgroup of 192 MiB; skips if none can be made."""
    try:
        made = Cgroup(f"devpi-sidecar-test-{os.getpid()}", LIMIT)
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    yield made
    with suppress(OSError):
        made.remove()


def test_192_mib(container: Callable[..., Container], cgroup: Cgroup) -> None:
    """First start, and 50 logins at once: nothing is killed, and all succeed."""
    enter = f'echo $$ > "{cgroup.path}/cgroup.procs" && exec "$@"'
    small = container(command=("/bin/sh", "-c", enter, "sh", *ENTRYPOINT))
    small.start().wait_ready()
    password = small.claim()
    port = int(small.devpi.rpartition(":")[2])
    body = json.dumps({"user": "root", "password": password})
    with ThreadPoolExecutor(LOGINS) as pool:
        answers = list(pool.map(lambda _: ask(port, "POST", "/+login", {}, body)[0], range(LOGINS)))
    assert {200} == set(answers)
    assert small.login("root", password) == 200
    assert small.get("/readyz").status == 200
    assert cgroup.oom_kills == 0
    assert cgroup.peak <= LIMIT
    assert request(f"{small.devpi}/+api").status == 200
    assert small.stop() == 0


def test_all_that_hashes_at_once(cgroup: Cgroup, container: Callable[..., Container]) -> None:
    """50 logins, a claim, a rotation and a user's new passwords, while other clients send passwords without a pause."""
    enter = f'echo $$ > "{cgroup.path}/cgroup.procs" && exec "$@"'
    command = ("/bin/sh", "-c", enter, "sh", *ENTRYPOINT)
    small = container(command=command, env={"DEVPI_RESTRICT_MODIFY": ""}).start().wait_ready()
    port = int(small.devpi.rpartition(":")[2])
    assert call_devpi(f"{small.devpi}/alice", "PUT", {"password": "of-alice"}).status == 201
    token = base64.b64encode(f"alice:{login_token(small.devpi, 'of-alice', 'alice')}".encode()).decode()
    over = threading.Event()

    def logs_in(number: int) -> int:
        body = json.dumps({"user": "root", "password": f"not the password {number}"})
        return ask(port, "POST", "/+login", {}, body, PATIENCE)[0]

    def asks() -> set[int]:
        statuses = set()
        while not over.is_set():
            statuses.add(ask(port, "GET", "/+api", BASIC, timeout=PATIENCE)[0])
        return statuses

    def changes_her_password(number: int) -> int:
        patch = json.dumps({"password": f"new {number}"})
        return ask(port, "PATCH", "/alice", {"X-Devpi-Auth": token}, patch, PATIENCE)[0]

    with ThreadPoolExecutor(LOGINS + 4) as pool:
        askers = [pool.submit(asks) for _ in range(3)]
        alice = pool.submit(lambda: [changes_her_password(number) for number in (1, 2)])
        logins = pool.map(logs_in, range(LOGINS))
        try:
            small.claim()
            rotated = small.post("/bootstrap/rotate?keep_logins=true")  # otherwise alice's login ends
            assert alice.result(2 * PATIENCE) == [200, 200]
            assert {401, 503} == set(logins)
        finally:
            over.set()
        assert set().union(*(asker.result(PATIENCE) for asker in askers)) <= {200, 503}
    assert rotated.status == 200
    assert small.login("root", rotated.json["password"]) == 200
    assert small.login("alice", "new 2") == 200
    assert cgroup.oom_kills == 0
    assert small.stop() == 0


def test_an_importer_that_is_killed_for_memory_says_so(container: Callable[..., Container], cgroup: Cgroup) -> None:
    """An export too large for the limit fails, with that reason on `/status`; the sidecar lives on."""
    export = cgroup_filling_export(container().home)
    enter = f'echo $$ > "{cgroup.path}/cgroup.procs" && exec "$@"'
    small = container("small", command=("/bin/sh", "-c", enter, "sh", *ENTRYPOINT))
    small.init_dir.mkdir()
    subprocess.run(["tar", "-cf", small.init_dir / "export.tar", "-C", export, "."], check=True)
    status = small.start().wait_phase("failed", "ready")
    assert status["phase"] == "failed"
    assert "memory" in status["import"]["error"]["reason"]
    assert small.get("/livez").status == 200
    assert small.get("/readyz").status == 503
    assert small.stop() == 0


def cgroup_filling_export(home: Path) -> Path:
    """An export whose dataindex.json needs more memory, once parsed, than the limit."""
    export = home / "export"
    export.mkdir()
    metadata = {f"key{number}": [str(number), str(-number)] for number in range(900_000)}
    index = {
        "indexconfig": {"type": "stage", "bases": []},
        "projects": {"big": {"1.0": {"name": "big", "version": "1.0", **metadata}}},
        "files": [],
    }
    data = {"dumpversion": "2", "users": {"alice": {"pwhash": None}}, "indexes": {"alice/dev": index}}
    (export / "dataindex.json").write_text(json.dumps(data))
    return export
