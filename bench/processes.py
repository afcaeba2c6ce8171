"""The two ways: plain devpi commands, and our entrypoint. Each run has its own folder and session."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.rounds import ROOT, Failed
from testbed import sampling

BIN = Path(sys.executable).parent
PASSWORD = "bench-password"
CHEAP = ("--argon2-memory-cost", "8", "--argon2-time-cost", "1", "--argon2-parallelism", "1")
"""devpi-server's own flags for a key derivation that costs nothing."""
POLL = 0.02
"""Seconds between two polls."""
PATIENCE = 900.0
"""Seconds after which a run counts as failed."""


class Running:
    """A started process; for `with`, which stops it and its descendants."""

    def __init__(self, command: Sequence[str | Path], folder: Path, environ: dict[str, str]) -> None:
        self.folder = folder
        self.log = folder / "log"
        self._command = command
        self._environ = _base_environ(folder) | environ
        self._usage: resource.struct_rusage | None = None

    def __enter__(self) -> Running:
        with self.log.open("ab") as log:
            self.started = time.monotonic()
            self.process = subprocess.Popen(
                [str(part) for part in self._command],
                cwd=self.folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def runs(self) -> bool:
        return self._usage is None and not self._reap(os.WNOHANG)

    def first_200(self, port: int, path: str, patience: float = PATIENCE) -> float:
        """Poll until the answer is 200; return seconds since the process started. Raises `Failed`."""
        due = time.monotonic()
        while not _says_200(port, path):
            if not self.runs:
                raise Failed(
                    f"it exited with code {self.process.returncode} before {path} answered 200: {self.last_words()}"
                )
            if time.monotonic() - self.started > patience:
                raise Failed(f"no 200 from {path} for {patience:.0f} s: {self.last_words()}")
            due = max(due + POLL, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
        return time.monotonic() - self.started

    def wait(self, patience: float = PATIENCE) -> float:
        """Wait until the process exits with code 0; return seconds since it started. Raises `Failed`."""
        while self.runs:
            if time.monotonic() - self.started > patience:
                raise Failed(f"it still runs after {patience:.0f} s")
            time.sleep(0.005)
        if self.process.returncode != 0:
            raise Failed(f"it exited with code {self.process.returncode}: {self.last_words()}")
        return time.monotonic() - self.started

    def cpu_in_all(self) -> float:
        """Return CPU seconds of the exited process and of all children that were waited for."""
        assert self._usage is not None
        return self._usage.ru_utime + self._usage.ru_stime

    def end(self, patience: float = 30.0) -> None:
        """Stop the whole tree: SIGTERM, then SIGKILL."""
        family = sampling.tree(self.pid) if self.runs else []
        if family:
            self.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + patience
            while self.runs and time.monotonic() < deadline:
                time.sleep(0.01)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in filter(sampling.is_there, family):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            deadline = time.monotonic() + 5
            while (self.runs or any(map(sampling.is_there, family))) and time.monotonic() < deadline:
                time.sleep(0.01)

    def ended(self, status: int, usage: resource.struct_rusage) -> None:
        """Set the exit status of the process, after waiting for it."""
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self._usage = usage

    def last_words(self) -> str:
        """Return the end of its log, on one line."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return " / ".join(lines[-3:])[-400:]

    def _reap(self, options: int) -> bool:
        pid, status, usage = os.wait4(self.pid, options)
        if pid == 0:
            return False
        self.ended(status, usage)
        return True


class Ours(Running):
    """`entrypoint.py` on `serverdir` with default settings, fixed ports and, unless it imports, a root password."""

    def __init__(
        self,
        folder: Path,
        *,
        init_dir: Path | None = None,
        serverdir: Path | None = None,
        flags: Sequence[str] = (),
        prefix: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        alone: Sequence[str] = ("--no-root-pypi", "--offline-mode"),
    ) -> None:
        """`alone`: the flags that keep it from any registry."""
        self.serverdir = serverdir or folder / "serverdir"
        self.runtime = folder / "runtime"
        self.port, self.devpi_port = free_ports(2)
        settings = {
            "DEVPI_SERVERDIR": str(self.serverdir),
            "DEVPI_INIT_DIR": str(init_dir or folder / "init.d"),
            "SIDECAR_HOST": "127.0.0.1",
            "SIDECAR_PORT": str(self.port),
            "SIDECAR_RUNTIME_DIR": str(self.runtime),
        }
        if init_dir is None:
            settings["DEVPI_PASSWORD"] = PASSWORD
        listen = "--host", "127.0.0.1", "--port", str(self.devpi_port)
        command: list[str | Path] = [*prefix, sys.executable, ROOT / "entrypoint.py", *alone, *listen, *flags]
        super().__init__(command, folder, settings | dict(environ or {}))

    def __enter__(self) -> Ours:
        super().__enter__()
        return self

    def ready(self) -> float:
        """Wait, and return seconds from the start to the first 200 of `/readyz`."""
        return self.first_200(self.port, "/readyz")

    def live(self) -> float:
        """Wait, and return seconds from the start to the first 200 of `/livez`."""
        return self.first_200(self.port, "/livez")

    def status(self) -> dict[str, Any]:
        """Return `/status`, parsed."""
        return get_json(self.port, "/status")

    @property
    def devpi_pid(self) -> int:
        """devpi-server's process: the sidecar's only child."""
        return sampling.tree(self.pid, all_threads=False)[1]


class ByHand(Running):
    """Plain devpi commands in a shell, joined by `&&`; the last one, mostly devpi-server, replaces the shell."""

    def __init__(self, folder: Path, *commands: Sequence[str | Path], prefix: Sequence[str] = ()) -> None:
        lines = [shlex.join(map(str, command)) for command in commands]
        script = " && ".join([*lines[:-1], f"exec {lines[-1]}"])
        super().__init__([*prefix, "sh", "-c", script], folder, {})

    def __enter__(self) -> ByHand:
        super().__enter__()
        return self


def devpi_init(serverdir: Path) -> list[str | Path]:
    return [BIN / "devpi-init", "--serverdir", serverdir, "--no-root-pypi", "--root-passwd", PASSWORD]


def devpi_import(serverdir: Path, tree: Path) -> list[str | Path]:
    return [BIN / "devpi-import", "--serverdir", serverdir, "--no-root-pypi", tree]


def devpi_server(serverdir: Path, port: int, *flags: str) -> list[str | Path]:
    return [BIN / "devpi-server", "--serverdir", serverdir, *serve_flags(port), "--restrict-modify", "root", *flags]


def serve_flags(port: int) -> tuple[str, ...]:
    """Flags for loopback only, without any registry."""
    return "--host", "127.0.0.1", "--port", str(port), "--offline-mode"


def free_ports(count: int) -> list[int]:
    """Return free ports of 127.0.0.1."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def get(port: int, path: str, timeout: float = 10.0, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """GET `path`. Raises OSError."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP: {error!r}") from error
    finally:
        connection.close()


def get_json(port: int, path: str) -> dict[str, Any]:
    """Return the JSON at `path`. Raises `Failed`."""
    status, body = get(port, path, headers={"Accept": "application/json"})
    if status != 200:
        raise Failed(f"{path} answered {status}: {body[:200]!r}")
    said: dict[str, Any] = json.loads(body)
    return said


def holds(port: int, index: str, project: str) -> int:
    """Return how many files devpi-server has of a project."""
    status, body = get(port, f"/{index}/{project}/", headers={"Accept": "application/json"})
    if status != 200:
        raise Failed(f"/{index}/{project} answered {status}")
    return sum(len(version.get("+links", ())) for version in json.loads(body)["result"].values())


@contextlib.contextmanager
def polled(url_port: int, path: str, every: float) -> Iterator[list[int]]:
    """Request `path` every so many seconds in a thread, as a probe does; yield the statuses."""
    import threading

    statuses: list[int] = []
    end = threading.Event()

    def run() -> None:
        while not end.wait(every):
            try:
                statuses.append(get(url_port, path)[0])
            except OSError:
                statuses.append(0)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield statuses
    finally:
        end.set()
        thread.join()


def _says_200(port: int, path: str) -> bool:
    """Poll once with a bare socket, which costs almost nothing."""
    try:
        with socket.create_connection(("127.0.0.1", port), 30) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
            return connection.recv(64).split(b" ", 2)[1:2] == [b"200"]
    except OSError:
        return False


def _base_environ(folder: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TZ") if name in os.environ}
    return kept | {"PATH": f"{BIN}:{os.environ.get('PATH', os.defpath)}", "HOME": str(folder)}
