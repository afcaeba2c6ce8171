"""The commands of docs/docker.md, run as they are written, in a clean checkout."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import engine
from tests.support.container import request, wait_for
from tests.support.engine import NO_MIRROR, ROOT, Box, clean_checkout, docker

pytestmark = pytest.mark.image

TEXT = (ROOT / "docs" / "docker.md").read_text()
MARKED = re.compile(r"^<!-- (run|file: (?P<name>\S+)) -->\n```\w+\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
VOLUMES = ("devpi_docs", "devpi_docs_restored")


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A clean checkout. The commands' names and ports must be free: this test removes what has these names."""
    with engine.documented_names():
        if docker("container", "inspect", "devpi", check=False).returncode == 0:
            engine.not_here("a container named devpi is somebody's")
        if any(docker("volume", "inspect", name, check=False).returncode == 0 for name in VOLUMES):
            engine.not_here(f"a volume of {VOLUMES} is somebody's")
        folder = Path(tempfile.mkdtemp(prefix="devpi-sidecar-tests-"))
        folder.chmod(0o755)
        clean_checkout(folder)
        yield folder
        docker("rm", "--force", "--volumes", "devpi", check=False)
        docker("volume", "rm", "--force", *VOLUMES, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def test_the_commands_work_as_written(image: str, checkout: Path) -> None:
    """Build, run, claim, export, import, derive: each block exits with code 0 and does what it promises."""
    ran = 0
    for block in MARKED.finditer(TEXT):
        if block["name"]:
            (checkout / block["name"]).write_text(block["text"])
            continue
        with engine.only_build():
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block["text"]],
                cwd=checkout, capture_output=True, text=True, timeout=engine.BUILD_PATIENCE, check=False,
            )  # fmt: skip
        assert done.returncode == 0, f"{block['text']}\n{done.stdout}{done.stderr}"
        ran += 1
    assert 5 == ran
    status = request("http://127.0.0.1:3142/status").json
    assert ("ready", "completed") == (status["phase"], status["import"]["state"])


WAIT = re.compile(r"^docker exec devpi sidecar healthcheck --wait.*$", re.MULTILINE)


def waited(command: str, name: str) -> str:
    """Return the output of the documented command for a container, to its end."""
    line = re.sub(r"\bdevpi\b", name, command)
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=180, check=False)
    return done.stdout + done.stderr


def test_the_documented_wait_ends_with_the_container(box: Callable[..., Box]) -> None:
    """Ready; exited before, by a wrong flag; exited meanwhile: the last lines of its log are printed."""
    (command,) = set(WAIT.findall(TEXT) + WAIT.findall((ROOT / "README.md").read_text()))
    assert "ready\n" == waited(command, box("--tmpfs", "/tmp", name="ready").start().name)

    wrong = box("--tmpfs", "/tmp", name="wrong", flags=("--no-such-flag",)).start()
    assert 2 == wrong.wait_end()
    assert "--no-such-flag" in waited(command, wrong.name)

    options = ("--tmpfs", "/tmp", "--no-healthcheck")  # its check would be taken for the command's
    replica = box(*options, name="replica", flags=("--primary-url", "http://192.0.2.1", *NO_MIRROR)).start()
    with ThreadPoolExecutor(1) as beside:
        waiting = beside.submit(waited, command, replica.name)
        wait_for(
            lambda: replica.get("/status").json["phase"] == "launching", "a replica without its primary", 60, every=0.5
        )
        wait_for(lambda: engine.check_age(replica.name) > 0, "a check that waits", 60, every=1)
        assert 0 == replica.stop()
        assert "[sidecar.container.shutdown] stop" in waiting.result()  # the log so far


def test_every_target_and_argument_is_told() -> None:
    """The tables list what the Dockerfile has."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    arguments = set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))
    assert set() == {name for name in arguments if f"`{name}`" not in TEXT}
    assert set() == {name for name in ("devpi", "devpi-web", "debug", "test") if f"AS {name}\n" not in dockerfile}
