"""docker-compose.yml, from a clean copy of the checkout, as documented."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import engine, exported
from tests.support.container import free_port, login, request, wait_for
from tests.support.engine import KILL, check_age, clean_checkout, docker

pytestmark = pytest.mark.image

NOT_OURS = """
services:
  devpi:
    image: {tag}
    ports: !override ["127.0.0.1:{port}:8000", "127.0.0.1:{sidecar}:3142"]
volumes:
  devpi_data:
    name: {project}
"""
"""Keeps this test away from the ports, the image and the *data* of a user of the sample on this machine."""


@dataclass
class Composition:
    """One clean checkout, on which `docker compose` runs."""

    folder: Path
    project: str
    devpi: str
    sidecar: str
    files: str

    def compose(self, *arguments: str, check: bool = True, patience: float = 300) -> subprocess.CompletedProcess[str]:
        """Run `docker compose ARGUMENTS` in that folder."""
        environ = {**os.environ, "COMPOSE_PROJECT_NAME": self.project, "COMPOSE_FILE": self.files}
        return docker("compose", *arguments, check=check, patience=patience, cwd=self.folder, env=environ)

    def build(self) -> None:
        """Run `docker compose build`."""
        with engine.only_build():
            self.compose("build", patience=engine.BUILD_PATIENCE)

    def container(self) -> dict[str, Any]:
        """Return the engine's description of devpi's container."""
        name = self.compose("ps", "--all", "--quiet", "devpi").stdout.strip()
        return dict(json.loads(docker("inspect", name).stdout)[0])


@pytest.fixture(params=["docker-compose.yml", "deploy/compose/secrets.yml"])
def composition(request: pytest.FixtureRequest, image: str) -> Iterator[Composition]:
    """The sample, and its variant with secrets from files; with ports, image and volume of the test."""
    folder = Path(tempfile.mkdtemp(prefix="devpi-sidecar-tests-"))
    folder.chmod(0o755)
    clean_checkout(folder)
    project = engine.unique("compose")
    port, sidecar = free_port(), free_port()
    override = NOT_OURS.format(tag=f"{project}:latest", port=port, sidecar=sidecar, project=project)
    (folder / "override.yml").write_text(override)
    files = [*dict.fromkeys(["docker-compose.yml", request.param]), "override.yml"]
    made = Composition(folder, project, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{sidecar}", ":".join(files))
    if "secrets" in request.param:
        (folder / "secrets").mkdir()
        (folder / "secrets" / "devpi_password").write_text("a given password\n")
        (folder / "secrets" / "sidecar_admin_token").write_text("a-given-token-of-the-test\n")
    try:
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", "5", check=False)
        docker("rmi", f"{project}:latest", check=False)
        shutil.rmtree(folder, ignore_errors=True)


def test_up_and_down(composition: Composition) -> None:
    """`up --wait` from a clean checkout without a backup; claim or a provided password; `down` with code 0 in time."""
    with engine.only_build():
        composition.compose("up", "--detach", "--wait", patience=engine.BUILD_PATIENCE)
    assert 200 == request(f"{composition.sidecar}/readyz").status
    if "secrets.yml" in composition.files:
        password = "a given password"
        answer = request(f"{composition.sidecar}/bootstrap", token="a-given-token-of-the-test")
        assert 200 == answer.status
    else:
        password = composition.compose("exec", "-T", "devpi", "sidecar", "claim").stdout.strip()
    assert 200 == login(composition.devpi, "root", password)[0]

    before = composition.container()
    assert "healthy" == before["State"]["Health"]["Status"]
    assert before["HostConfig"]["ReadonlyRootfs"]
    composition.compose("stop")
    assert 0 == composition.container()["State"]["ExitCode"]
    composition.compose("down")
    composition.compose("up", "--detach", "--wait")  # on the volume that stayed
    assert 200 == login(composition.devpi, "root", password)[0]


@pytest.mark.parametrize("composition", ["docker-compose.yml"], indirect=True)
def test_up_with_a_backup(composition: Composition, tmp_path: Path) -> None:
    """`./backup.bz2` is imported; `up --wait` returns when that is done; devpi-server comes back after a kill."""
    exported.pack(exported.write(tmp_path / "export", projects=3), composition.folder / "backup.bz2").chmod(0o644)
    with engine.only_build():
        composition.compose("up", "--detach", "--wait", patience=engine.BUILD_PATIENCE)
    status = request(f"{composition.sidecar}/status").json
    assert "completed" == status["import"]["state"]
    assert 200 == login(composition.devpi, "mass", exported.MASS_PASSWORD)[0]

    kill = f"WANTED = 'sidecar.worker'\n{KILL}"
    composition.compose("exec", "-T", "devpi", "python3", "-c", kill, check=False)
    wait_for(lambda: composition.container()["RestartCount"] == 1, "a restart", 60)
    wait_for(lambda: request(f"{composition.sidecar}/readyz").status == 200, "ready again", 60)
    assert 200 == login(composition.devpi, "mass", exported.MASS_PASSWORD)[0]


DEPENDENT = """
services:
  dependent:
    image: {tag}
    entrypoint: [python3, -c, "import time; time.sleep(600)"]
    stop_grace_period: 1s
    healthcheck: {{test: [CMD, python3, -c, ""], interval: 1s}}
    depends_on: {{devpi: {{condition: service_healthy}}}}
"""
SIGNAL_IMPORTER = """
import os, signal
launchers = {}
for each in filter(str.isdigit, os.listdir("/proc")):
    try:
        if "sidecar.worker" in open(f"/proc/{each}/cmdline").read().split("\\0")[:5]:
            launchers[int(each)] = int(open(f"/proc/{each}/stat").read().rpartition(")")[2].split()[1])
    except OSError:
        pass
(importer,) = [pid for pid, parent in launchers.items() if parent in launchers]
os.kill(importer, signal.WANTED)
"""
HELD = """
services:
  devpi:
    healthcheck: {start_period: 1s, interval: 1s, retries: 1}
"""
"""The sample, but less patient: one failed check would end the wait."""


def with_file(composition: Composition, name: str, text: str) -> None:
    """Add a compose file to those of the composition."""
    (composition.folder / name).write_text(text)
    composition.files += f":{name}"


@pytest.mark.parametrize("composition", ["docker-compose.yml"], indirect=True)
@pytest.mark.parametrize("how", ["--wait", "depends_on"])
def test_a_failed_import_ends_the_wait(composition: Composition, tmp_path: Path, how: str) -> None:
    """`up --wait` and `depends_on: condition: service_healthy` end with an error; the reason stays visible."""
    whole = exported.pack(exported.write(tmp_path / "export", projects=3), tmp_path / "whole.bz2").read_bytes()
    (composition.folder / "backup.bz2").write_bytes(whole[: len(whole) // 2])
    composition.build()
    if how == "depends_on":
        with_file(composition, "dependent.yml", DEPENDENT.format(tag=f"{composition.project}:latest"))
    done = composition.compose("up", "--detach", *(["--wait"] if how == "--wait" else []), check=False, patience=240)
    assert 1 == done.returncode, done.stdout + done.stderr
    assert "is unhealthy" in done.stdout + done.stderr
    assert "truncated" in request(f"{composition.sidecar}/status").json["import"]["error"]["reason"]
    assert 0 == composition.container()["RestartCount"]


@pytest.mark.parametrize("composition", ["docker-compose.yml"], indirect=True)
def test_a_wrong_flag_ends_the_wait(composition: Composition) -> None:
    """A container that exits again and again is unhealthy meanwhile, and `up --wait` fails."""
    with_file(composition, "wrong.yml", "services: {devpi: {command: --no-such-flag}}")
    composition.build()
    done = composition.compose("up", "--detach", "--wait", check=False, patience=240)
    assert 1 == done.returncode, done.stdout + done.stderr
    assert "--no-such-flag" in composition.compose("logs", "devpi").stdout


@pytest.mark.parametrize("composition", ["docker-compose.yml"], indirect=True)
def test_an_import_is_waited_for_for_longer_than_all_checks_may_fail(composition: Composition, tmp_path: Path) -> None:
    """Blocked by a signal for far longer than the interval of the checks, it stays `starting`; then `up` succeeds."""
    exported.pack(exported.write(tmp_path / "export", projects=1500), composition.folder / "backup.bz2").chmod(0o644)
    composition.build()
    with_file(composition, "held.yml", HELD)
    with ThreadPoolExecutor(1) as beside:
        up = beside.submit(composition.compose, "up", "--detach", "--wait", check=False, patience=300)
        wait_for(
            lambda: request(f"{composition.sidecar}/status").json["import"]["state"] == "loading", "the import", 120
        )
        composition.compose("exec", "-T", "devpi", "python3", "-c", SIGNAL_IMPORTER.replace("WANTED", "SIGSTOP"))
        name = composition.compose("ps", "--quiet", "devpi").stdout.strip()
        try:
            wait_for(lambda: check_age(name) > 5, "a check that waits", 120, every=1)
            health = composition.container()["State"]["Health"]
            assert ("starting", []) == (health["Status"], health["Log"])
            assert not up.done()
        finally:
            composition.compose("exec", "-T", "devpi", "python3", "-c", SIGNAL_IMPORTER.replace("WANTED", "SIGCONT"))
        done = up.result()
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "completed" == request(f"{composition.sidecar}/status").json["import"]["state"]
