"""`sidecar …` as a real process, against a small server in place of the sidecar."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from itertools import product
from pathlib import Path

import pytest
from aiohttp import web

from sidecar.cli import healthcheck
from sidecar.core import discovery
from sidecar.core.check import NOT_RUNNING
from sidecar.core.lifecycle import Phase
from sidecar.core.terminal import printable
from sidecar.storage.runtime_dir import RuntimeDir
from sidecar.web.server.listener import bind
from tests.support.container import wait_for
from tests.support.fake_devpi import eventually

ROOT = Path(__file__).parents[2]
TOKEN = "given-token-0123456789"
PASSWORD = "0123456789abcdefghijklmnopqrstuv"


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Run:
    """The result of a command."""

    def __init__(self, code: int | None, out: bytes, err: bytes) -> None:
        self.code, self.out, self.err = code, out.decode(), err.decode()


class Sidecar:
    """A runtime directory, and the answers of its server."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.runtime = RuntimeDir.open(directory)
        self.runtime.write_token(TOKEN)
        self.answers: dict[str, tuple[int, str, dict[str, str]]] = {}
        self.asked: list[str] = []
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SIDECAR_")},
            "SIDECAR_RUNTIME_DIR": str(directory),
            "PYTHONPATH": str(ROOT),
            "http_proxy": "http://127.0.0.1:1",
        }

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path_qs} {request.headers.get('Authorization', '')}".strip())
        if request.path.startswith("/bootstrap") and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.json_response({"title": "unauthorized", "detail": "wrong token"}, status=401)
        status, text, headers = self.answers[request.path]
        return web.Response(status=status, text=text, headers=headers)

    def says(self, path: str, content: object, status: int = 200, **headers: str) -> None:
        self.answers[path] = status, json.dumps(content), headers

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sidecar.cli", *arguments,
            env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    async def run(self, *arguments: str) -> Run:
        process = await self.start(*arguments)
        out, err = await asyncio.wait_for(process.communicate(), 20)
        return Run(process.returncode, out, err)


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Sidecar]:
    """A sidecar of which only the folder exists."""
    sidecar = Sidecar(tmp_path / "run")
    yield sidecar
    sidecar.runtime.close()


@pytest.fixture(params=["127.0.0.1"])
async def sidecar(stopped: Sidecar, request: pytest.FixtureRequest) -> AsyncIterator[Sidecar]:
    """A sidecar that answers, at an address that a test may choose."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", stopped.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        listening, *more = await bind(request.param, 0)
        for each in more:
            each.close()
        await web.SockSite(runner, listening).start()
    except OSError:
        await runner.cleanup()
        pytest.skip(f"no {request.param} on this machine")
    stopped.runtime.write_state(request.param, runner.addresses[0][1])
    stopped.says("/readyz", {"status": "pass"})
    yield stopped
    await runner.cleanup()


STATUS = {
    "phase": "ready",
    "since": "2026-11-22T12:00:00Z",
    "import": {"state": "none"},
    "root_password": {
        "state": "claimable",
        "expires": "2026-11-23T12:00:00Z",
        "hint": "`sidecar claim` prints it, once",
    },
    "devpi": {"version": "6.20.3"},
    "sidecar": {"version": "0.1.0"},
}


# --- healthcheck ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sidecar", ["127.0.0.1", "::1", "0.0.0.0", "::", "localhost"], indirect=True)
async def test_a_ready_devpi_is_healthy(sidecar: Sidecar) -> None:
    """Exit code 0, on IPv4, IPv6, and on wildcard addresses."""
    run = await sidecar.run("healthcheck")
    assert (run.code, run.out, run.err) == (0, "ready\n", "")
    assert sidecar.asked == ["GET /readyz"]


async def test_an_unready_devpi_is_unhealthy(sidecar: Sidecar) -> None:
    """Exit code 1, and only the failing checks, on one line, for `docker inspect`."""
    body = "[+]disk ok\n[-]process failed: devpi ended\n[-]http failed: \x1b[2Jno\u202e answer\n"
    sidecar.answers["/readyz"] = 503, body, {}
    run = await sidecar.run("healthcheck")
    assert run.code == 1
    assert run.out == "not ready (503): process failed: devpi ended; http failed: \\x1b[2Jno\\u202e answer\n"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "[-]process pending: importing: 5 of 9 files\n[-]http pending: not checked yet\nreadyz check pending\n",
            "process pending: importing: 5 of 9 files",
        ),
        (
            "[-]process failed: failed: no; do\n[-]http failed: devpi-server is not running\nreadyz check failed\n",
            "process failed: failed: no; do",
        ),
        ("[-]http pending: not checked yet\nreadyz check pending\n", "http pending: not checked yet"),
    ],
)
async def test_an_unready_devpi_says_why_once(sidecar: Sidecar, body: str, said: str) -> None:
    """Checks that only follow from `process` are left out, unless there are no others."""
    sidecar.answers["/readyz"] = 503, body, {}
    run = await sidecar.run("healthcheck")
    assert (run.code, run.out) == (1, f"not ready (503): {said}\n")


async def test_an_unready_devpi_in_other_words(sidecar: Sidecar) -> None:
    """Any other body is printed as it is, on one line of at most 1000 characters, plain ASCII."""
    sidecar.answers["/readyz"] = 503, "importing\nföö of 2000 files\n" + "x" * 3000, {}
    run = await sidecar.run("healthcheck")
    assert run.code == 1
    assert run.out.startswith("not ready (503): importing; f\\xf6\\xf6 of 2000 files; xxx")
    assert len(run.out) < 1020


@pytest.mark.parametrize(
    ("command", "what"),
    sorted(
        set(product(["healthcheck", "status", "token", "claim", "rotate"], ["folder", "address", "listener", "link"]))
        - {("token", "listener")}
    ),  # needs none
)
async def test_no_sidecar_here(stopped: Sidecar, tmp_path: Path, command: str, what: str) -> None:
    """No folder, no address, no listener, a link: reported, with exit code 1 for Docker, otherwise 2."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    if what == "folder":
        stopped.environ["SIDECAR_RUNTIME_DIR"] = str(tmp_path / "absent")
    elif what == "address":
        stopped.runtime.clear()
    elif what == "link":
        (tmp_path / "link").symlink_to(stopped.directory)
        stopped.environ["SIDECAR_RUNTIME_DIR"] = str(tmp_path / "link")
    else:
        stopped.runtime.write_state("127.0.0.1", port)
    run = await stopped.run(command)
    assert run.code == (1 if command == "healthcheck" else 2)
    assert "no sidecar" in (run.out if command == "healthcheck" else run.err)
    assert (run.err if command == "healthcheck" else run.out) == ""


@pytest.mark.parametrize("content", ["", "127.0.0.1", "127.0.0.1 x", " 80", "127.0.0.1 8\u0660"])
def test_a_damaged_address(stopped: Sidecar, content: str) -> None:
    """The error names the address."""
    (stopped.directory / "address").write_text(content)
    with pytest.raises(discovery.NoSidecar, match="damaged"):
        discovery.address(str(stopped.directory))


def serve_raw(stopped: Sidecar, answer: bytes) -> socket.socket:
    server = socket.create_server(("127.0.0.1", 0))
    stopped.runtime.write_state("127.0.0.1", server.getsockname()[1])
    server.listen()
    if answer:
        asyncio.get_running_loop().run_in_executor(None, _answer_once, server, answer)
    return server


def _answer_once(server: socket.socket, answer: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(answer)


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.9\r\n", b"\xff\x00\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 2000 x\r\n\r\n"]
)
async def test_garbage_is_unhealthy(stopped: Sidecar, answer: bytes) -> None:
    """Any other server on that port is not ready."""
    with serve_raw(stopped, answer):
        run = await stopped.run("healthcheck")
    assert run.code == 1
    assert run.out.startswith("not ready")
    assert run.err == ""


async def test_a_sidecar_that_hangs_is_unhealthy(stopped: Sidecar, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole command has a deadline, even if single bytes arrive now and then."""
    monkeypatch.setattr(healthcheck, "TIMEOUT", 0.5)
    monkeypatch.setenv("SIDECAR_RUNTIME_DIR", str(stopped.directory))
    ended = asyncio.Event()

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not ended.is_set():
                writer.write(b"H")
                await writer.drain()
                await asyncio.sleep(0.05)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    stopped.runtime.write_state("127.0.0.1", server.sockets[0].getsockname()[1])
    begun = time.monotonic()
    assert await asyncio.to_thread(healthcheck.main) == 1
    assert time.monotonic() - begun < 30, "the drip never ends"
    ended.set()
    server.close()


async def waits(sidecar: Sidecar, run: asyncio.Task[Run], questions: int) -> None:
    """Wait until `healthcheck --wait` has made this many requests, and still runs."""
    await eventually(lambda: sidecar.asked.count("GET /readyz") >= questions, 20)
    assert not run.done()


@pytest.mark.parametrize("phase", sorted(healthcheck.UNSETTLED))
async def test_a_check_that_waits_ends_with_the_start(sidecar: Sidecar, phase: str) -> None:
    """It is silent during start-up and import, however long they take; then it reports ready."""
    sidecar.answers["/readyz"] = 503, f"[-]process failed: {phase}\n", {}
    archives = [{"name": f"{number:0250}", "bytes": 1, "sha256": "0" * 64} for number in range(1000)]
    sidecar.says("/status", {"import": {"archives": archives}, "phase": phase})
    run = asyncio.create_task(sidecar.run("healthcheck", "--wait"))
    await waits(sidecar, run, 4)
    sidecar.says("/readyz", {"status": "pass"})
    ended = await run
    assert (ended.code, ended.out, ended.err) == (0, "ready\n", "")


@pytest.mark.parametrize("phase", sorted({phase.value for phase in Phase} - healthcheck.UNSETTLED))
async def test_a_check_that_waits_says_no_where_waiting_is_in_vain(sidecar: Sidecar, phase: str) -> None:
    """A failed import, a stop, a devpi-server that was ready before: it exits at once, as without `--wait`."""
    sidecar.answers["/readyz"] = 503, "[-]process failed: the disk is full\n", {}
    sidecar.says("/status", {"phase": "importing"})
    run = asyncio.create_task(sidecar.run("healthcheck", "--wait"))
    await waits(sidecar, run, 2)
    sidecar.says("/status", {"phase": phase})
    ended = await run
    assert (ended.code, ended.out) == (1, "not ready (503): process failed: the disk is full\n")


def test_the_phases_that_are_waited_for_are_those_before_ready() -> None:
    """With a misspelt or missing phase, the command would wait forever or not at all."""
    assert {phase.value for phase in Phase} - {"ready", "stopping", "failed"} == healthcheck.UNSETTLED


@pytest.mark.parametrize("status", ["[]", "{}", '{"phase": 7}', "nonsense"])
async def test_a_check_that_waits_gives_up_without_an_answer(
    sidecar: Sidecar, status: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ "Cannot tell" is not "yes": an unintelligible answer counts as silence, which has a limit."""
    monkeypatch.setattr(healthcheck, "SILENCE", 1.0)
    monkeypatch.setenv("SIDECAR_RUNTIME_DIR", str(sidecar.directory))
    sidecar.answers["/readyz"] = 503, "[-]http failed: no answer\n", {}
    sidecar.answers["/status"] = 200, status, {}
    begun = time.monotonic()
    assert await asyncio.to_thread(healthcheck.main, wait=True) == 1
    assert time.monotonic() - begun >= 1.0
    assert capsys.readouterr().out == "not ready (503): http failed: no answer\n"


def test_a_check_that_waits_for_a_sidecar_to_come_up_has_a_limit(
    stopped: Sidecar, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Docker may run the check before the sidecar has written its address."""
    monkeypatch.setattr(healthcheck, "SILENCE", 1.0)
    monkeypatch.setenv("SIDECAR_RUNTIME_DIR", str(stopped.directory))
    stopped.runtime.clear()
    begun = time.monotonic()
    assert healthcheck.main(wait=True) == 1
    assert time.monotonic() - begun >= 1.0
    assert capsys.readouterr().out.startswith("no sidecar here: ")


async def test_a_health_check_that_nobody_reads(sidecar: Sidecar) -> None:
    """With a closed pipe or a full device, the exit code is the answer, and nothing is reported."""
    for target in ("/dev/full", None):
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, "wb") if target is None else Path(target).open("wb") as out:  # noqa: ASYNC230
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "sidecar.cli", "healthcheck",
                env=sidecar.environ, stdout=out, stderr=subprocess.PIPE,
            )  # fmt: skip
            _, err = await process.communicate()
        if target:
            os.close(write)
        assert (process.returncode, err) == (0, b"")


def test_the_health_check_imports_next_to_nothing(stopped: Sidecar) -> None:
    """None of the modules that cost milliseconds: HEALTHCHECK starts it every few seconds."""
    code = (
        "import sys; before = set(sys.modules); from sidecar.cli.__main__ import main; main(['healthcheck']);"
        "print(*(set(sys.modules) - before), file=sys.stderr)"
    )
    # -I -S: without what a virtualenv's .pth files import
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
        env=stopped.environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = set(done.stderr.split())
    assert "sidecar.cli.healthcheck" in loaded
    assert not loaded & {
        "argparse", "json", "re", "pathlib", "typing", "dataclasses", "http", "urllib", "logging", "asyncio", "ssl",
        "aiohttp", "encodings.idna", "stringprep", "sidecar.core.settings", "sidecar.core.lifecycle",
        "sidecar.cli.commands",
    }  # fmt: skip
    assert len(loaded) < 40


# --- the runtime directory ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SIDECAR_RUNTIME_DIR": " /run/x "}, "/run/x"),
        ({"SIDECAR_RUNTIME_DIR": "", "TMPDIR": "/scratch/"}, f"/scratch/devpi-sidecar-{os.getuid()}"),
        ({"TMPDIR": ""}, f"/tmp/devpi-sidecar-{os.getuid()}"),
        ({}, f"/tmp/devpi-sidecar-{os.getuid()}"),
    ],
)
def test_the_runtime_directory(environ: dict[str, str], expected: str) -> None:
    """The variable, otherwise a folder of this uid in TMPDIR, otherwise in /tmp."""
    assert discovery.runtime_dir(environ) == expected


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "huge"])
def test_what_is_read_is_a_plain_small_file(stopped: Sidecar, kind: str) -> None:
    """No link, nothing that blocks or is endless; and no descriptor stays open."""
    path = stopped.directory / "token"
    path.unlink()
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_bytes(b"x" * 70_000)
    descriptors = open_descriptors()
    with pytest.raises(discovery.NoSidecar):
        discovery.read(str(stopped.directory), discovery.TOKEN)
    assert open_descriptors() == descriptors
    if kind == "directory":
        path.rmdir()


# --- status ---------------------------------------------------------------------------------------------------


async def test_the_status_of_a_ready_devpi(sidecar: Sidecar) -> None:
    """Readiness, versions, and the hint about the password; exit code 0."""
    sidecar.says("/status", STATUS)
    sidecar.says("/health", {"checks": [{"name": "http", "status": "pass"}]})
    run = await sidecar.run("status")
    assert (run.code, run.err) == (0, "")
    assert run.out.splitlines() == [
        "ready: ready since 2026-11-22T12:00:00Z",
        "  versions: devpi-server 6.20.3, sidecar 0.1.0",
        "  root's password: not claimed yet, until 2026-11-23T12:00:00Z; `sidecar claim` prints it, once",
    ]


async def test_the_status_of_an_import(sidecar: Sidecar) -> None:
    """Progress, rate and the time left; failing and warning checks with their reasons; exit code 1."""
    sidecar.says("/readyz", {"status": "fail"}, 503)
    sidecar.says(
        "/status",
        {
            **STATUS,
            "phase": "importing",
            "import": {
                "state": "loading",
                "archives": [{"name": f"backup{n}.bz2", "bytes": 1234567} for n in range(25)],
                "files": {"done": 512, "total": 2000},
                "projects": {"done": 100, "total": 500},
                "rate": 180.5,
                "eta_seconds": 130,
            },
            "root_password": {"state": "claimed", "claimed_from": "10.0.3.7", "hint": "if it is lost: x"},
        },
    )
    checks = [
        {"name": "process", "status": "pass"},
        {"name": "http", "status": "fail", "reason": "devpi-server does not run yet", "since": "2026-11-22T12:00:00Z"},
        {"name": "disk", "status": "warn", "reason": "900 MB free"},
    ]
    sidecar.says("/health", {"checks": checks}, 503)
    run = await sidecar.run("status")
    assert run.code == 1
    lines = run.out.splitlines()
    assert lines[0] == "not ready: importing since 2026-11-22T12:00:00Z"
    assert "  check http: fail since 2026-11-22T12:00:00Z: devpi-server does not run yet" in lines
    assert "  check disk: warn: 900 MB free" in lines
    assert not any("process" in line for line in lines)
    progress = "512 of 2000 files (26 %), 100 of 500 projects (20 %), 180 files/s, about 2 min 10 s left"
    assert f"  import: loading, {progress}" in lines
    assert "    backup0.bz2, 1.2 MB" in lines
    assert "    and 5 more" in lines
    assert lines[-1] == "  root's password: claimed from 10.0.3.7; if it is lost: x"


async def test_the_status_of_a_failed_import(sidecar: Sidecar) -> None:
    """Archive, member, reason and hint."""
    sidecar.says("/readyz", {"status": "fail", "checks": [{"name": "http", "status": "fail"}]}, 503)
    error = {"archive": "backup.bz2", "member": "a/dev/x.whl", "reason": "wrong digest", "hint": "export it again"}
    sidecar.says("/status", {**STATUS, "phase": "failed", "import": {"state": "failed", "error": error}})
    sidecar.says("/health", {"not": "as expected"})
    run = await sidecar.run("status")
    assert run.code == 1
    assert (
        "  the import failed\n    archive: backup.bz2\n    member: a/dev/x.whl\n    reason: wrong digest\n"
        "    hint: export it again; then restart the container\n    to start empty instead: remove the archives from "
    ) in run.out
    assert "  check http: fail: no reason given\n" in run.out


async def test_a_failed_import_says_why_once(sidecar: Sidecar) -> None:
    """The failure, the import and the checks have one reason; a hint to restart is not repeated."""
    reason = "the archive is damaged"
    error = {"archive": "backup.bz2", "member": None, "reason": reason, "hint": "free space, and start again"}
    failed = {"reason": f"the import failed at backup.bz2: {reason}", "hint": "free space, and start again"}
    sidecar.says("/readyz", {"status": "fail"}, 503)
    sidecar.says(
        "/status", {**STATUS, "phase": "failed", "failure": failed, "import": {"state": "failed", "error": error}}
    )
    checks = [
        {"name": "process", "status": "fail", "reason": f"failed: {failed['reason']}"},
        *({"name": name, "status": "fail", "reason": NOT_RUNNING} for name in ("http", "write", "lock")),
        {"name": "disk", "status": "warn", "reason": NOT_RUNNING},
    ]
    sidecar.says("/health", {"checks": checks})
    said = (await sidecar.run("status")).out
    assert (1, 1) == (said.count(reason), said.count("free space"))
    assert "then restart" not in said
    assert "check" not in said
    assert "hint: free space, and start again\n" in said


async def test_what_an_import_has_left_out(sidecar: Sidecar) -> None:
    """How much, and the first of it with archive and reason."""
    first = [{"archive": "backup.bz2", "member": "../x", "reason": "leads out"}]
    imported = {"state": "completed", "left_out": {"total": 12, "first": first}}
    sidecar.says("/status", {**STATUS, "import": imported})
    run = await sidecar.run("status")
    assert "    left out, not safe to load: 12\n      ../x of backup.bz2: leads out\n      and 11 more\n" in run.out
    sidecar.says("/status", {**STATUS, "import": {"state": "completed", "left_out": {"total": 0, "first": []}}})
    assert "left out" not in (await sidecar.run("status")).out


async def test_users_who_need_a_new_password(sidecar: Sidecar) -> None:
    """How many, the first by name, and the hint."""
    unusable = {"total": 3, "users": ["Bob", "alice"], "hint": "as root: `devpi passwd NAME`"}
    sidecar.says("/status", {**STATUS, "unusable_passwords": unusable})
    run = await sidecar.run("status")
    assert (
        "(devpi-server can't check the old hash): 3\n    Bob, alice and 1 more; as root: `devpi passwd NAME`" in run.out
    )
    sidecar.says("/status", {**STATUS, "unusable_passwords": {"total": 0, "users": []}})
    assert "need a new password" not in (await sidecar.run("status")).out


async def test_notices(sidecar: Sidecar) -> None:
    """What has no effect, or was repaired, with the hint."""
    notices = [{"about": "variable", "reason": f"DEVPI_X{n} is not known", "hint": "rename it"} for n in range(22)]
    sidecar.says("/status", {**STATUS, "notices": notices})
    run = await sidecar.run("status")
    assert "  notice: DEVPI_X0 is not known\n  hint: rename it\n" in run.out
    assert "DEVPI_X20" not in run.out
    assert "  and 2 more notices\n" in run.out


async def test_mirrors(sidecar: Sidecar) -> None:
    """Their upstreams, with the last error and its hint, then the sidecar's notes."""
    error = {"kind": "trust", "reason": "the certificate is not trusted", "hint": "set DEVPI_MIRROR_CA"}
    listed = {"state": "stale", "projects": 650123, "error": {"reason": "timed out", "hint": "wait"}}
    upstreams = [
        {"index": "a/b", "state": "down", "last_success": None, "error": error, "list": {"state": "off"}},
        {"index": "root/pypi", "state": "up", "last_success": "2026-11-22T10:20:30Z", "error": None, "list": listed},
    ]
    mirrors = {"total": 3, "upstreams": upstreams, "notes": ["a/b has no list"]}
    sidecar.says("/status", {**STATUS, "mirrors": mirrors})
    lines = (await sidecar.run("status")).out.splitlines()
    begin = lines.index("  upstream of a/b: down, never answered")
    assert lines[begin + 1 : begin + 3] == [
        "    reason: the certificate is not trusted",
        "    hint: set DEVPI_MIRROR_CA",
    ]
    assert re.fullmatch(
        r"  upstream of root/pypi: up, last answer .+ ago, 650,123 projects listed \(stale\)", lines[begin + 3]
    )
    assert lines[begin + 4 : begin + 8] == [
        "    the list of projects can't be refreshed: timed out",
        "    hint: wait",
        "  and 1 more upstream",
        "  mirror: a/b has no list",
    ]


async def test_hostile_text_does_not_reach_the_terminal(sidecar: Sidecar) -> None:
    """Control and bidi characters and line breaks are escaped, wide names are kept, endless ones are cut."""
    name = "\x1b]0;owned\x07\u202e\r\nroot's password: hunter2 日本語" + "x" * 5000
    sidecar.says(
        "/status",
        {
            **STATUS,
            "phase": name,
            "import": {
                "state": "loading",
                "archives": [{"name": name}, 7, None],
                "left_out": {"total": 1, "first": [{"member": name}, 7]},
            },
            "unusable_passwords": {"total": 2, "users": [name, 7]},
            "notices": [{"about": name, "reason": name, "hint": name}, 7],
            "mirrors": {
                "total": "x",
                "upstreams": [7, {"index": name, "state": name, "error": {"reason": name}, "list": 3}],
                "notes": [name[:300], 7],
            },
        },
    )
    sidecar.says("/health", {"checks": [{"name": name, "status": "fail", "reason": name}, "x"]})
    run = await sidecar.run("status")
    assert run.code == 0
    assert not set(run.out) & set("\x1b\x07\u202e\r")
    assert "日本語" in run.out
    assert not any(line.startswith("root's") for line in run.out.splitlines())
    assert len(run.out) < 6000
    assert json.loads((await sidecar.run("status", "--json")).out)["phase"] == name
    assert (await sidecar.run("status", "--json")).out.isascii()


@pytest.mark.parametrize(
    "content",
    [
        [],
        None,
        {},
        {
            "import": [],
            "root_password": 7,
            "devpi": "x",
            "phase": {},
            "failure": 3,
            "unusable_passwords": 1,
            "notices": {},
        },
        {"mirrors": 2},
        {"mirrors": {"notes": 2, "upstreams": 3}},
        {"mirrors": {"total": -1, "upstreams": [{"last_success": 7, "list": []}]}},
    ],
)
async def test_a_status_of_another_shape(sidecar: Sidecar, content: object) -> None:
    """No traceback, whatever the server answers."""
    sidecar.says("/status", content)
    sidecar.says("/health", content)
    run = await sidecar.run("status")
    assert run.code == (0 if isinstance(content, dict) else 1)
    assert "Traceback" not in run.err


async def test_status_as_json(sidecar: Sidecar) -> None:
    """The answer of /status, and the exit code of readiness."""
    sidecar.says("/status", STATUS)
    sidecar.says("/readyz", {}, 503)
    run = await sidecar.run("status", "--json")
    assert run.code == 1
    assert json.loads(run.out) == STATUS


# --- token, claim, rotate -------------------------------------------------------------------------------------


async def test_the_token_alone(sidecar: Sidecar) -> None:
    """For `$(docker exec NAME sidecar token)`; no request is made for it."""
    run = await sidecar.run("token")
    assert (run.code, run.out, run.err) == (0, f"{TOKEN}\n", "")
    assert sidecar.asked == []


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        (["claim"], "POST /bootstrap/root-password"),
        (["rotate"], "POST /bootstrap/rotate"),
        (["rotate", "--keep-logins"], "POST /bootstrap/rotate?keep_logins=true"),
    ],
)
async def test_the_password_alone_on_stdout(sidecar: Sidecar, command: list[str], asked: str) -> None:
    """Everything else goes to stderr; the token goes in a header; one request."""
    for path in ("/bootstrap/root-password", "/bootstrap/rotate"):
        sidecar.says(path, {"user": "root", "password": PASSWORD})
    run = await sidecar.run(*command)
    assert (run.code, run.out) == (0, f"{PASSWORD}\n")
    assert "not shown again" in run.err
    assert PASSWORD not in run.err
    assert sidecar.asked == [f"{asked} Bearer {TOKEN}"]
    as_json = await sidecar.run(*command, "--json")
    assert json.loads(as_json.out) == {"user": "root", "password": PASSWORD}


async def test_a_claim_that_comes_second(sidecar: Sidecar) -> None:
    """Exit code 1, with time and address of the first claim; nothing on stdout."""
    sidecar.says(
        "/bootstrap/root-password",
        {
            "title": "already claimed",
            "claimed_at": "2026-11-22T12:00:00Z",
            "claimed_from": "10.0.3.7\x1b[2J",
            "hint": "if that was not you, or the password is lost: `sidecar rotate`",
        },
        410,
    )
    run = await sidecar.run("claim")
    assert (run.code, run.out) == (1, "")
    assert "already claimed at 2026-11-22T12:00:00Z from 10.0.3.7\\x1b[2J" in run.err
    assert "sidecar rotate" in run.err


@pytest.mark.parametrize(
    ("status", "content", "words"),
    [
        (404, {"title": "nothing to claim", "detail": "given by the operator"}, "(404): nothing to claim; given"),
        (410, {"title": "expired", "detail": "at noon"}, "(410): expired; at noon"),
        (503, {"title": "not yet", "detail": "not initialised yet"}, "not initialised yet (retry in 2 s)"),
        (409, {"title": "can't", "hint": "rotate at the primary"}, "(409): can't; rotate at the primary\n"),
        (409, {"title": "can't", "detail": "a; do b", "hint": "do b"}, "(409): can't; a; do b\n"),
        (200, {"user": "root"}, "no password, but the password may have changed"),
        (200, [PASSWORD], "no password, but the password may have changed"),
    ],
)
async def test_a_refused_claim(sidecar: Sidecar, status: int, content: object, words: str) -> None:
    """The sidecar's own text, exit code 1, nothing on stdout."""
    sidecar.says("/bootstrap/root-password", content, status, **{"Retry-After": "2"})
    run = await sidecar.run("claim")
    assert (run.code, run.out) == (1, "")
    assert words in run.err


async def test_a_token_that_is_refused(sidecar: Sidecar) -> None:
    """401 is reported, without the token."""
    sidecar.runtime.write_token("another-token-0123456789")
    run = await sidecar.run("claim")
    assert run.code == 1
    assert "refused (401): unauthorized; wrong token" in run.err
    assert "another-token" not in run.err


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{", b"\x00\r\n", b"HTTP/1.1 200 OK\r\n"]
)
async def test_a_lost_answer_is_told_as_such(stopped: Sidecar, answer: bytes) -> None:
    """The operator learns that the password may be claimed, and what to do."""
    with serve_raw(stopped, answer):
        run = await stopped.run("claim")
    assert (run.code, run.out) == (1, "")
    assert "the password may have changed; run `sidecar status` and follow it" in run.err


async def test_a_password_that_cant_be_written_is_told_as_lost(sidecar: Sidecar) -> None:
    """With a broken pipe: exit code 141, and the hint on stderr."""
    sidecar.says("/bootstrap/root-password", {"user": "root", "password": PASSWORD})
    read, write = os.pipe()
    os.close(read)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidecar.cli", "claim",
        env=sidecar.environ, stdout=write, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(write)
    _, err = await process.communicate()
    assert process.returncode == 141
    assert b"the password can't be written" in err
    assert PASSWORD.encode() not in err
    assert b"Traceback" not in err
    assert b"Exception" not in err


async def test_a_full_device_is_an_error(sidecar: Sidecar) -> None:
    """`sidecar claim > file` on a full disk: exit code 1, no traceback."""
    sidecar.says("/bootstrap/root-password", {"user": "root", "password": PASSWORD})
    with Path("/dev/full").open("wb") as full:  # noqa: ASYNC230
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sidecar.cli", "claim",
            env=sidecar.environ, stdout=full, stderr=subprocess.PIPE,
        )  # fmt: skip
        _, err = await process.communicate()
    assert process.returncode == 1
    assert b"the password can't be written" in err
    assert os.strerror(errno.ENOSPC).encode() in err
    assert b"Traceback" not in err
    assert b"Exception" not in err


def sleeps(pid: int) -> bool:
    """Whether a process waits for something."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


async def test_ctrl_c(stopped: Sidecar) -> None:
    """Exit code 130, no traceback."""
    with serve_raw(stopped, b"") as server:
        process = await stopped.start("status")
        server.settimeout(20)
        connection, _ = await asyncio.to_thread(server.accept)
        assert await asyncio.to_thread(connection.recv, 65536)
        await asyncio.to_thread(wait_for, lambda: sleeps(process.pid), "it to wait for the answer")
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
        connection.close()
    assert (process.returncode, out, err) == (130, b"", b"")


# --- the rest -------------------------------------------------------------------------------------------------


async def test_wrong_usage(stopped: Sidecar) -> None:
    """Exit code 64, which no other outcome has."""
    for arguments in ([], ["claims"], ["claim", "--twice"], ["status", "--watch", "--json"]):
        run = await stopped.run(*arguments)
        assert (run.code, run.out) == (64, "")
        assert "usage: sidecar" in run.err


async def test_help_and_version(stopped: Sidecar) -> None:
    """The help lists every command."""
    run = await stopped.run("--help")
    assert run.code == 0
    for command in ("status", "top", "token", "claim", "rotate", "healthcheck", "version"):
        assert f"\n    {command}" in run.out
    assert (await stopped.run("version")).out.startswith("devpi-sidecar ")
    assert (await stopped.run("healthcheck", "--help")).code == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("plain", "plain"), ("a\tb\n", "a\\tb\\n"), ("\ud800", "\\ud800"), ("日本", "日本"), ("x" * 9, "xxxx…")],
)
def test_printable(text: str, expected: str) -> None:
    """One line of printable text, with a mark where it is cut."""
    assert printable(text, 5 if len(text) == 9 else 300) == expected
