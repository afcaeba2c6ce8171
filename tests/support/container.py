"""A real `entrypoint.py` process, with a real devpi-server child, in its own folders."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("TESTED_PYTHON", sys.executable)
"""Contains only what users have (dev.py), so that a missing dependency is noticed, and it starts as fast as theirs."""
ENTRYPOINT = (PYTHON, str(ROOT / "entrypoint.py"))
PATIENCE = 180.0
"""Seconds after which a wait for a condition fails."""
TOKEN = "t0ken-of-the-test-suite-0123456789"

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Answer:
    """An HTTP answer of the sidecar or devpi-server."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


def request(url: str, method: str = "GET", *, token: str | None = None, accept: str = "*/*") -> Answer:
    """Send one request, ignoring any proxy."""
    call = urllib.request.Request(url, method=method, headers={"Accept": accept})
    if token is not None:
        call.add_header("Authorization", f"Bearer {token}")
    try:
        with _opener.open(call, timeout=20) as answer:
            return Answer(answer.status, dict(answer.headers), answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, dict(error.headers), error.read())


def wait_for(condition: Callable[[], Any], what: str, patience: float = PATIENCE, every: float = 0.02) -> Any:
    """Call `condition` until it returns something true, and return that; fail after `patience` seconds.

    The interval begins with `every` seconds and grows, because each call takes CPU from the process under test.
    """
    began = time.monotonic()
    last: object = None
    while (waited := time.monotonic() - began) < patience:
        try:
            if result := condition():
                return result
        except (OSError, ValueError, KeyError) as error:
            last = error
        time.sleep(min(max(every, waited / 10), 0.5))
    raise AssertionError(f"waited {patience:.0f} s for {what}; last error: {last!r}")


@dataclass
class Container:
    """The entrypoint as a process. Its ports are free ones; devpi's is known once it listens."""

    home: Path
    flags: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    user: int | None = None
    """uid (and gid) to run as, if the tests run as root; `command` and `env` from `python_of_everybody`."""
    group: int | None = None
    """gid, if it differs from the uid."""
    command: tuple[str, ...] = ()
    stderr_apart: bool = False
    """Write stderr not into the log but into `errors`."""
    process: subprocess.Popen[bytes] | None = None
    exit_code: int | None = None

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.serverdir = self.home / "serverdir"
        self.init_dir = self.home / "init.d"
        self.runtime = self.home / "runtime"
        self.log_file = self.home / "log"

    @property
    def environ(self) -> dict[str, str]:
        """The whole environment of the process."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
        return kept | {
            "HOME": str(self.home),
            "DEVPI_SERVERDIR": str(self.serverdir),
            "DEVPI_INIT_DIR": str(self.init_dir),
            "SIDECAR_HOST": "127.0.0.1",
            "SIDECAR_PORT": "0",
            "SIDECAR_RUNTIME_DIR": str(self.runtime),
            "SIDECAR_ADMIN_TOKEN": TOKEN,
            "SIDECAR_MONITOR_INTERVAL": "0.5",
            **self.env,
        }

    @property
    def arguments(self) -> list[str]:
        """The command line. It has no mirror of a registry, which a test must never reach."""
        flags = self.flags or ("--host", "127.0.0.1", "--port", "0", "--no-root-pypi", "--offline-mode")
        return [*(self.command or ENTRYPOINT), *flags]

    @property
    def given_environ(self) -> dict[str, str]:
        """The environment, without variables that a test has set to "-"."""
        return {name: value for name, value in self.environ.items() if value != "-"}

    def run(self, *arguments: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run the entrypoint with these arguments instead of the flags, to its end; stderr goes to stdout."""
        user = self.user if user is None else user
        return subprocess.run(
            [*(self.command or ENTRYPOINT), *arguments],
            env=self.given_environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.home,
            user=user,
            group=user,
            extra_groups=[] if user is not None else None,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def sidecar(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the `sidecar` command, like an operator in the container."""
        return subprocess.run(
            [PYTHON, "-m", "sidecar.cli", *arguments],
            env=self.given_environ,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def start(self) -> Container:
        """Start it without waiting."""
        environ = self.given_environ
        with self.log_file.open("ab") as log, (self.home / "errors").open("ab") as errors:
            self.process = subprocess.Popen(
                self.arguments,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=errors if self.stderr_apart else log,
                cwd=self.home,
                user=self.user,
                group=self.user if self.group is None else self.group,
                extra_groups=[] if self.user is not None else None,
                start_new_session=True,
            )
        self.exit_code = None
        return self

    @property
    def log(self) -> str:
        """All output so far, of all its starts."""
        return self.log_file.read_text(errors="replace")

    @property
    def errors(self) -> str:
        """The output on stderr, if that is separate."""
        return (self.home / "errors").read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The sidecar's process id."""
        assert self.process is not None
        return self.process.pid

    @property
    def devpi_pid(self) -> int:
        """devpi-server's process id: the sidecar's only child."""
        (child,) = children(self.pid)
        return child

    @property
    def running(self) -> bool:
        """Whether the sidecar's process has not ended."""
        assert self.process is not None
        return self.process.poll() is None

    @property
    def url(self) -> str:
        """The sidecar's URL, as written for `sidecar …` commands."""
        url: str = json.loads((self.runtime / "state.json").read_text())["url"]
        return url

    @property
    def devpi(self) -> str:
        """devpi-server's URL."""
        (address,) = self.status()["devpi"]["addresses"]
        return str(address)

    def get(self, path: str, **options: Any) -> Answer:
        """GET from the sidecar."""
        return request(self.url + path, **options)

    def post(self, path: str, token: str | None = TOKEN) -> Answer:
        """POST to the sidecar, as admin by default."""
        return request(self.url + path, "POST", token=token)

    def status(self) -> dict[str, Any]:
        """`/status`, parsed."""
        status: dict[str, Any] = self.get("/status").json
        return status

    def wait_listening(self) -> Container:
        """Wait until the sidecar answers."""
        wait_for(lambda: self._alive() and (self.runtime / "state.json").exists() and self.get("/livez"), "the sidecar")
        return self

    def wait_phase(self, *phases: str) -> dict[str, Any]:
        """Wait until `/status` shows one of the phases; return that status."""
        self.wait_listening()

        def look() -> dict[str, Any] | None:
            self._alive()
            status = self.status()
            return status if status["phase"] in phases else None

        return wait_for(look, f"phase {phases}")

    def wait_ready(self) -> Container:
        """Wait until `/readyz` answers 200, and the phase follows: the last check passes an instant before it."""
        self.wait_listening()
        wait_for(lambda: self._alive() and self._not_failed() and self.get("/readyz").status == 200, "ready")
        wait_for(lambda: self._alive() and self.status()["phase"] != "launching", "the phase after launching")
        return self

    def _alive(self) -> bool:
        assert self.running, f"it has ended with code {self.process.returncode}:\n{self.log[-4000:]}"  # type: ignore[union-attr]
        return True

    def _not_failed(self) -> bool:
        status = self.status()
        assert status["phase"] != "failed", status
        return True

    def wait_end(self, patience: float = PATIENCE) -> int:
        """Wait until the process ends by itself; return its exit code."""
        assert self.process is not None
        self.exit_code = self.process.wait(patience)
        return self.exit_code

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; return the exit code."""
        if self.running:
            os.kill(self.pid, number)
        return self.wait_end()

    def kill(self) -> None:
        """Send SIGKILL to the whole session, as if the container were killed, and wait for the process."""
        assert self.process is not None
        if self.running:
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def claim(self) -> str:
        """Claim and return the generated root password."""
        answer = self.post("/bootstrap/root-password")
        assert answer.status == 200, answer
        password: str = answer.json["password"]
        return password

    def login(self, user: str, password: str) -> int:
        """The HTTP status of a login at devpi-server."""
        return login(self.devpi, user, password)[0]


def login(devpi: str, user: str, password: str) -> tuple[int, str | None]:
    """Log in at devpi-server; return the HTTP status and the login token."""
    body = json.dumps({"user": user, "password": password}).encode()
    call = urllib.request.Request(
        f"{devpi}/+login", data=body, headers={"Content-Type": "application/json", "Accept": "application/json"}
    )
    try:
        with _opener.open(call, timeout=20) as answer:
            return answer.status, json.load(answer)["result"]["password"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, None


@contextmanager
def cleared_away(container: Container) -> Iterator[Container]:
    """The container, which is killed at the end."""
    try:
        yield container
    finally:
        if container.process is not None:
            container.kill()


def children(pid: int) -> list[int]:
    """The ids of a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def call_devpi(
    url: str, method: str = "GET", content: object = None, *, token: str | None = None, kind: str = "application/json"
) -> Answer:
    """One request to devpi-server, as root with a login token, or anonymously. `content`: bytes, or JSON."""
    data = content if isinstance(content, bytes) or content is None else json.dumps(content).encode()
    call = urllib.request.Request(url, data=data, method=method)
    call.add_header("Accept", "application/json")
    if data is not None:
        call.add_header("Content-Type", kind)
    if token is not None:
        call.add_header("X-Devpi-Auth", base64.b64encode(f"root:{token}".encode()).decode())
    try:
        with _opener.open(call, timeout=30) as answer:
            return Answer(answer.status, dict(answer.headers), answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, dict(error.headers), error.read())


def login_token(devpi: str, password: str, user: str = "root") -> str:
    """A login token; fails without one."""
    status, token = login(devpi, user, password)
    assert status == 200, status
    assert token is not None
    return token


def token_holds(devpi: str, token: str) -> bool:
    """Whether devpi-server still accepts this login token as root's."""
    verdict, user, _ = call_devpi(f"{devpi}/+api", token=token).json["result"]["authstatus"]
    return bool(verdict == "ok" and user == "root")


def upload_form(name: str, content: bytes) -> tuple[bytes, str]:
    """The body and the content type of an upload of `NAME-1.0.tar.gz`, as twine sends it."""
    fields = {":action": "file_upload", "name": name, "version": "1.0", "metadata_version": "1.0", "filetype": "sdist"}
    parts = [f'--BOUND\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()]
    head = f'--BOUND\r\nContent-Disposition: form-data; name="content"; filename="{name}-1.0.tar.gz"\r\n\r\n'
    return "".join([*parts, head]).encode() + content + b"\r\n--BOUND--\r\n", "multipart/form-data; boundary=BOUND"


def make_index(devpi: str, token: str, name: str = "dev") -> str:
    """Create an index of root's without bases, so that it asks no other server; return its URL."""
    url = f"{devpi}/root/{name}"
    assert call_devpi(url, "PUT", {"bases": [], "volatile": True}, token=token).status == 200
    return url


def upload(index: str, token: str, name: str, content: bytes) -> str:
    """Upload `NAME-1.0.tar.gz`; return its URL."""
    body, kind = upload_form(name, content)
    answer = call_devpi(f"{index}/", "POST", body, token=token, kind=kind)
    assert answer.status == 200, answer
    (link,) = call_devpi(f"{index}/{name}", token=token).json["result"]["1.0"]["+links"]
    return str(link["href"])


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free just now."""
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        return int(listener.getsockname()[1])


def python_of_everybody() -> tuple[str, dict[str, str]] | None:
    """A Python that other users may run, and its environment; None: that of the tests is in a private folder."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        probe = [python, "-c", "import aiohttp, devpi_server, sidecar"]
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": packages}
        try:
            done = subprocess.run(
                probe, env=env, user=12345, group=12345, extra_groups=[], cwd="/", capture_output=True, check=False
            )
        except OSError:
            continue
        if done.returncode == 0:
            return python, {"PYTHONPATH": packages}
    return None
