"""Containers of the real image in a real Docker Engine, through its command line; each is removed after its test."""

from __future__ import annotations

import fcntl
import importlib.util
import io
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support import needs
from tests.support.container import Answer, login, request, wait_for

ROOT = Path(__file__).resolve().parents[2]
IMAGE, WEB_IMAGE, DEBUG_IMAGE, TEST_IMAGE = (
    f"devpi-sidecar-under-test:{name}" for name in ("devpi", "web", "debug", "test")
)
LABEL = "devpi-sidecar-test"
"""The label of everything that the tests create in the engine."""
LOCKED_DOWN = (
    *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "12345:0"),
    *("--tmpfs", "/tmp", "--memory", "192m", "--pids-limit", "200"),
)
"""The flags in the issue's words."""
NO_MIRROR = ("--no-root-pypi", "--offline-mode")
"""Flags with which devpi-server reaches no other server."""
BUILD_PATIENCE = 900.0
"""Seconds for a build without cache on a busy machine."""


def docker(
    *arguments: str | Path, check: bool = True, patience: float = 120.0, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run `docker ARGUMENTS` to its end; with `check` it must succeed."""
    done = subprocess.run(
        ["docker", *map(str, arguments)], capture_output=True, text=True, timeout=patience, check=False, **options
    )
    assert not check or done.returncode == 0, f"docker {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}"
    return done


def require() -> None:
    """Skip if no engine answers; in CI that is a failure."""
    try:
        done = docker("version", "--format", "{{.Server.Version}}", check=False)
    except FileNotFoundError:
        reason = "there is no docker command"
    else:
        if done.returncode == 0:
            return
        reason = f"no Docker Engine answers: {done.stderr.strip()}"
    needs.not_tested(reason)


def not_here(reason: str) -> None:
    """Skip what this engine does not support, in CI too."""
    pytest.skip(f"NOT TESTED: {reason}")


@contextmanager
def alone_with(what: str) -> Iterator[None]:
    """Wait until no other test, in any process, holds the same name."""
    with Path(tempfile.gettempdir(), f"{LABEL}-{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def only_build() -> AbstractContextManager[None]:
    """One build at a time: BuildKit (`walkProvenance`) can crash the engine if two run at once."""
    return alone_with("builds")


def documented_names() -> AbstractContextManager[None]:
    """The name `devpi` and the ports of the documentation's examples, for one test at a time."""
    return alone_with("documented-names")


def build(target: str, tag: str, *options: str, context: Path = ROOT) -> str:
    """Build a target of the Dockerfile; return the image's ID, the digest of its content."""
    with only_build():
        docker("build", "--target", target, "--tag", tag, *options, context, patience=BUILD_PATIENCE)
    return image_id(tag)


def image_id(image: str) -> str:
    """The digest of an image's configuration, which includes its layers."""
    return docker("image", "inspect", "--format", "{{.Id}}", image).stdout.strip()


def source_date() -> str:
    """`SOURCE_DATE_EPOCH` of the checkout: its commit's time."""
    done = subprocess.run(
        [needs.program("git"), "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "1700000000"


def trimmed() -> ModuleType:
    """docker/trimmed.py, which is not in a package."""
    spec = importlib.util.spec_from_file_location("trimmed", ROOT / "docker" / "trimmed.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unique(name: str) -> str:
    """A name that is unique in this engine."""
    return f"{LABEL}-{name}-{uuid.uuid4().hex[:8]}"


_CHECK_AGE = """
import os
age = 0.0
for each in filter(str.isdigit, os.listdir("/proc")):
    try:
        words = open(f"/proc/{each}/cmdline").read().split("\\0")
        began = int(open(f"/proc/{each}/stat").read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    except OSError:
        continue
    if words[-3:] == ["healthcheck", "--wait", ""]:
        age = max(age, float(open("/proc/uptime").read().split()[0]) - began)
print(age)
"""


def check_age(container: str) -> float:
    """Seconds that the HEALTHCHECK waiting in a container has been running; 0: none is."""
    done = docker("exec", container, "python3", "-c", _CHECK_AGE, check=False)
    return float(done.stdout) if done.returncode == 0 else 0.0


class Box:
    """One container. `options` are docker's, `flags` devpi-server's."""

    def __init__(self, name: str, *options: str, flags: tuple[str, ...] = NO_MIRROR, image: str = IMAGE) -> None:
        self.name = unique(name)
        self.options = options
        self.flags = flags
        self.image = image

    def create(self) -> Box:
        """Create it without starting it."""
        publish = (
            () if "--network" in self.options else ("--publish", "127.0.0.1::3141", "--publish", "127.0.0.1::3142")
        )
        docker("create", "--name", self.name, "--label", LABEL, *publish, *self.options, self.image, *self.flags)
        return self

    def start(self) -> Box:
        """Start it, created before or not, without waiting."""
        if docker("container", "inspect", self.name, check=False).returncode:
            self.create()
        docker("start", self.name)
        return self

    def address(self, port: int) -> str:
        """The URL of a published port of the container. Raises ConnectionError: it has ended."""
        told = docker("port", self.name, str(port), check=False)
        if told.returncode:
            raise ConnectionRefusedError(told.stderr.strip())
        return f"http://{told.stdout.splitlines()[0]}"

    @property
    def url(self) -> str:
        """The sidecar's URL."""
        return self.address(3142)

    @property
    def devpi(self) -> str:
        """devpi-server's URL."""
        return self.address(3141)

    def inspect(self) -> dict[str, Any]:
        """The output of `docker inspect`."""
        (told,) = json.loads(docker("inspect", self.name).stdout)
        return dict(told)

    @property
    def state(self) -> dict[str, Any]:
        """Whether it runs, its exit code, its health."""
        return dict(self.inspect()["State"])

    @property
    def log(self) -> str:
        """All output so far."""
        done = docker("logs", self.name)
        return done.stdout + done.stderr

    def exec(
        self, *command: str, check: bool = True, options: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """`docker exec`."""
        return docker("exec", *options, self.name, *command, check=check)

    def get(self, path: str) -> Answer:
        """GET from the sidecar."""
        return request(self.url + path)

    def wait_ready(self, patience: float = 90.0) -> Box:
        """Wait until `/readyz` answers 200. The engine is asked once a second, because each call starts processes."""
        url, asked = "", 0.0

        def is_ready() -> bool:
            nonlocal url, asked
            if not url or time.monotonic() > asked + 1:
                self._has_not_ended()
                url, asked = self.url, time.monotonic()
            return request(f"{url}/readyz").status == 200 and self.url == url  # and not of the port's next owner

        wait_for(is_ready, "ready", patience, every=0.1)
        return self

    def wait_ready_inside(self, patience: float = 90.0) -> Box:
        """Wait until `sidecar healthcheck` reports ready: for containers without published ports."""

        def is_ready() -> bool:
            self._has_not_ended()
            return self.exec("sidecar", "healthcheck", check=False).returncode == 0

        wait_for(is_ready, "ready", patience, every=0.5)
        return self

    def _has_not_ended(self) -> None:
        state = self.state
        assert state["Running"] or state["Restarting"], f"it has ended with {state['ExitCode']}:\n{self.log[-4000:]}"

    def wait_health(self, status: str, patience: float) -> None:
        """Wait until the engine reports `healthy` or `unhealthy`."""
        wait_for(lambda: self.state["Health"]["Status"] == status, status, patience, every=0.5)

    def wait_end(self, patience: float = 60.0) -> int:
        """Wait until it ends by itself; return its exit code."""
        return int(docker("wait", self.name, patience=patience).stdout)

    def stop(self, grace: int = 40) -> int:
        """Run `docker stop`; return the exit code."""
        docker("stop", "--time", str(grace), self.name)
        return int(self.state["ExitCode"])

    def claim(self) -> str:
        """Claim the generated root password like an operator's `curl`."""
        token = self.exec("sidecar", "token").stdout.strip()
        answer = request(f"{self.url}/bootstrap/root-password", "POST", token=token)
        assert 200 == answer.status, answer
        return str(answer.json["password"])

    def login(self, password: str) -> int:
        """The HTTP status of root's login at devpi-server."""
        return login(self.devpi, "root", password)[0]

    def remove(self) -> None:
        """Remove it, whatever its state is."""
        docker("rm", "--force", "--volumes", self.name, check=False)


@contextmanager
def volume(*options: str) -> Iterator[str]:
    """A named volume of this test; its name."""
    name = unique("volume")
    docker("volume", "create", "--label", LABEL, *options, name)
    try:
        yield name
    finally:
        users = docker("ps", "--all", "--quiet", "--filter", f"volume={name}").stdout.split()
        if users:
            docker("rm", "--force", *users, check=False)
        docker("volume", "rm", name)


KILL = """
import os, signal
for each in filter(str.isdigit, os.listdir("/proc")):
    try:
        words = open(f"/proc/{each}/cmdline").read().split("\\0")
    except OSError:
        continue
    if int(each) not in (1, os.getpid()) and any(word == WANTED for word in words[:4]):
        os.kill(int(each), signal.SIGKILL)
        break
else:
    raise SystemExit("no such process")
"""


def clean_checkout(folder: Path) -> None:
    """What a clone of the checkout would contain: all files that git doesn't ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


@cache
def told() -> dict[str, str]:
    """The build arguments, as in docs/docker.md."""
    return {
        "REVISION": "0123456789abcdef0123456789abcdef01234567",
        "CREATED": f"{datetime.fromtimestamp(int(source_date()), UTC):%Y-%m-%dT%H:%M:%SZ}",
        "SOURCE": "https://git.example.com/devpi-sidecar.git",
        "URL": "https://devpi-sidecar.example.com",
        "PYTHON_IMAGE_DIGEST": f"sha256:{'0' * 64}",
        "SOURCE_DATE_EPOCH": source_date(),
    }


def build_told(target: str, tag: str) -> str:
    """Build a target of the Dockerfile under a tag; return the tag."""
    build(target, tag, *(part for name, value in told().items() for part in ("--build-arg", f"{name}={value}")))
    return tag


def exported_files(tag: str) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Each member of the container's root file system, except what the engine adds."""
    name = unique("export")
    docker("create", "--name", name, "--label", LABEL, tag)
    try:
        data = subprocess.run(["docker", "export", name], capture_output=True, check=True).stdout
    finally:
        docker("rm", "--volumes", name)
    added = re.compile(r"(dev|proc|sys)(/.*)?|\.dockerenv|etc/(hosts|hostname|resolv\.conf|mtab)")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            if not added.fullmatch(member.name.rstrip("/")):
                file = archive.extractfile(member) if member.isreg() else None
                yield member, file.read() if file else b""
