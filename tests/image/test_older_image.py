"""The examples of the older image's README (cloudhotspot/devpi, 2016), unchanged except for the image's name."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import engine, exported
from tests.support.container import Answer, login, request, wait_for
from tests.support.engine import IMAGE, docker

pytestmark = pytest.mark.image

COMPOSE = f"""
version: '2'

services:
  devpi:
    image: {IMAGE}
    ports:
      - "8000:8000"
    volumes:
      - devpi_data:/var/lib/devpi
      - ./backup.bz2:/devpi-init.d/backup.bz2
    stop_signal: SIGINT
    command: "--port 8000"

volumes:
  devpi_data:
    external: true
"""


@pytest.fixture
def folder(image: str) -> Iterator[Path]:
    """The folder of the commands. Their names and ports must be free: this test removes everything with these names."""
    with engine.documented_names():
        if docker("container", "inspect", "devpi", check=False).returncode == 0:
            engine.not_here("a container named devpi is somebody's")
        if docker("volume", "inspect", "devpi_data", check=False).returncode == 0:
            engine.not_here("a volume named devpi_data is somebody's")
        with tempfile.TemporaryDirectory(prefix="devpi-sidecar-tests-") as name:
            Path(name).chmod(0o755)
            yield Path(name)
        docker("rm", "--force", "--volumes", "devpi", check=False)
        docker("volume", "rm", "--force", "devpi_data", check=False)


def type_in(folder: Path, command: str) -> None:
    """Run a command of the README; a port in use is not a failure of the image."""
    words = [IMAGE if word == "IMAGE" else word for word in shlex.split(command)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    if "port is already allocated" in done.stderr or "address already in use" in done.stderr:
        engine.not_here(done.stderr.strip())
    assert 0 == done.returncode, f"{command}\n{done.stdout}{done.stderr}"


def serves(port: int) -> str:
    """Wait until devpi-server answers on a port of this machine; return its URL."""
    url = f"http://127.0.0.1:{port}"

    def look() -> Answer | None:
        running = docker("ps", "--all", "--format", "{{.Status}}", "--filter", f"publish={port}").stdout
        assert "Exited" not in running, docker("logs", "devpi", check=False).stdout
        answer = request(f"{url}/+api", accept="application/json")
        return answer if answer.status == 200 else None

    wait_for(look, f"devpi-server on port {port}", 90, every=0.5)
    return url


@pytest.mark.parametrize(
    ("command", "port", "serverdir"),
    [
        ("docker run -d --name devpi -p 3141:3141 IMAGE", 3141, "/var/lib/devpi"),
        ("docker run -d --name devpi -p 8000:8000 IMAGE --port 8000", 8000, "/var/lib/devpi"),
        (
            "docker run -d --name devpi -e DEVPI_SERVERDIR=/mnt/devpi -p 8000:8000 IMAGE --port 8000",
            8000,
            "/mnt/devpi",
        ),
        (
            "docker run -d --name devpi -e DEVPI_SERVERDIR=/mnt/devpi -v devpi_data:/mnt/devpi -p 8000:8000"
            " IMAGE --port 8000",
            8000,
            "/mnt/devpi",
        ),
    ],
    ids=["plain", "another port", "another folder", "a fresh volume on another folder"],
)
def test_run(folder: Path, command: str, port: int, serverdir: str) -> None:
    """It serves, has made its state there, with 32 random characters as root's password; only root creates users."""
    type_in(folder, command)
    url = serves(port)
    found = docker("exec", "devpi", "python3", "-c", f"import os; print(*os.listdir({serverdir!r}))").stdout.split()
    assert {".serverversion", ".nodeinfo"} <= set(found)
    docker("exec", "devpi", "sidecar", "healthcheck", "--wait")
    password = docker("exec", "devpi", "sidecar", "claim").stdout.strip()
    assert 32 == len(password)
    assert 200 == login(url, "root", password)[0]
    assert 403 == request(f"{url}/anybody", "PUT", accept="application/json").status
    docker("stop", "--time", "40", "devpi")
    assert "0" == docker("inspect", "--format", "{{.State.ExitCode}}", "devpi").stdout.strip()


def test_run_with_arguments_and_a_password(folder: Path) -> None:
    """`IMAGE <arg> [<arg> …]`: flags follow those of every start; `DEVPI_PASSWORD` is root's."""
    type_in(
        folder, "docker run -d --name devpi -e DEVPI_PASSWORD=s3cret-of-2016 -p 8000:8000 IMAGE --port 8000 --threads 7"
    )
    url = serves(8000)
    assert 200 == login(url, "root", "s3cret-of-2016")[0]
    assert 403 == request(f"{url}/anybody", "PUT", accept="application/json").status
    assert "http://0.0.0.0:8000" in docker("logs", "devpi").stdout


@pytest.mark.parametrize("compose", ["docker-compose", "docker compose"])
def test_compose(folder: Path, compose: str) -> None:
    """The file of version 2: a volume, a backup, SIGINT for the stop; `docker-compose up -d`."""
    program, *words = compose.split()
    if not words and subprocess.run(["which", program], capture_output=True, check=False).returncode:
        engine.not_here("there is no docker-compose command")
    exported.pack(exported.write(folder / "export", projects=2), folder / "backup.bz2").chmod(0o644)
    (folder / "docker-compose.yml").write_text(COMPOSE)
    type_in(folder, "docker volume create --name devpi_data")
    try:
        type_in(folder, f"{compose} up -d")
        url = serves(8000)
        assert 200 == login(url, "mass", exported.MASS_PASSWORD)[0]
        type_in(folder, f"{compose} stop --timeout 40")
        ended = subprocess.run(
            [program, *words, "ps", "--all", "--format", "{{.ExitCode}}"],
            cwd=folder, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "0" == ended.stdout.strip()
    finally:
        subprocess.run([program, *words, "down", "--timeout", "5"], cwd=folder, capture_output=True, check=False)


def test_every_bz2_is_imported(folder: Path) -> None:
    """All `*.bz2` in `/devpi-init.d` are unpacked; several exports become one."""
    for number, user in enumerate(("one", "two")):
        export = exported.write(folder / user, projects=1, user=user)
        exported.pack(export, folder / "init" / f"{number}.bz2").chmod(0o644)
    type_in(folder, f"docker run -d --name devpi -p 8000:8000 -v {folder}/init:/devpi-init.d IMAGE --port 8000")
    url = serves(8000)
    assert [200, 200] == [login(url, user, exported.MASS_PASSWORD)[0] for user in ("one", "two")]
