"""The whole story with the image: run, claim, log in, upload, install, export, import into a second container."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import exported
from tests.support.container import request, wait_for
from tests.support.engine import LOCKED_DOWN, NO_MIRROR, WEB_IMAGE, Box, docker

pytestmark = pytest.mark.image

Make = Callable[..., Box]


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder of this machine that a container's user may write to."""
    folder = Path(tempfile.mkdtemp(prefix="devpi-sidecar-tests-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def install(devpi: str, index: str, package: str, into: Path) -> str:
    """Run a real `pip install` from devpi; return the installed module's text."""
    url = f"{devpi}/{index}/+simple/"
    command = [sys.executable, "-m", "pip", "install", "--isolated", "--no-cache-dir", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--index-url", url, "--target", str(into), package]
    environ = {"PATH": os.environ["PATH"], "HOME": str(into.parent), "PIP_CONFIG_FILE": os.devnull, "no_proxy": "*"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return (into / f"{package}.py").read_text()


def test_the_story(box: Make, volume: str, shared_folder: Path, tmp_path: Path) -> None:
    """With the client in the image, devpi-export beside the running server, and the archive in a second container."""
    dist = shared_folder / "dist"
    dist.mkdir()
    name, content = exported.wheel("greeting", "1.0", "HELLO = 'world'\n")
    (dist / name).write_bytes(content)
    out = shared_folder / "out"
    out.mkdir()
    out.chmod(0o777)

    # run, claim once
    options = (
        *LOCKED_DOWN,
        "--volume",
        f"{volume}:/var/lib/devpi",
        "--volume",
        f"{dist}:/dist:ro",
        "--volume",
        f"{out}:/out",
    )
    first = box(*options, name="first").start().wait_ready()
    password = first.claim()
    token = first.exec("sidecar", "token").stdout.strip()
    assert 410 == request(f"{first.url}/bootstrap/root-password", "POST", token=token).status

    # log in, make an index, upload, with the client inside
    assert (
        "logged in"
        in first.exec("devpi", "use", "http://localhost:3141").stdout
        + first.exec("devpi", "login", "root", "--password", password).stdout
    )
    first.exec("devpi", "index", "--create", "dev", "bases=")
    first.exec("devpi", "use", "root/dev")
    assert "file_upload of" in first.exec("devpi", "upload", f"/dist/{name}").stdout
    assert "HELLO = 'world'" in install(first.devpi, "root/dev", "greeting", tmp_path / "one")

    # export beside the running server: the command passes the same guards as the entrypoint
    first.exec("devpi-export", "--serverdir", "/var/lib/devpi", "/out/export")
    foreign = first.exec(
        "devpi-export", "--serverdir", "/var/lib/devpi", "/tmp/e", check=False, options=("--user", "0")
    )
    assert 73 == foreign.returncode, foreign.stdout + foreign.stderr
    taken = first.exec("devpi-fsck", "--serverdir", "/var/lib/devpi", check=False)
    assert 75 == taken.returncode, taken.stdout + taken.stderr
    assert 200 == first.get("/readyz").status
    archive = exported.pack(out / "export", shared_folder / "init" / "backup.bz2")
    archive.chmod(0o644)
    assert 0 == first.stop()

    # import it into an empty one
    mounted = ("--volume", f"{archive}:/devpi-init.d/backup.bz2:ro")
    second = box(*LOCKED_DOWN, *mounted, name="second").start().wait_ready()
    status = second.get("/status").json
    assert ("completed", "backup.bz2") == (status["import"]["state"], status["import"]["archives"][0]["name"])
    assert "from_import" == status["root_password"]["state"]
    assert 200 == second.login(password)
    assert "HELLO = 'world'" in install(second.devpi, "root/dev", "greeting", tmp_path / "two")
    assert 0 == second.stop()


def test_an_archive_that_is_none_is_told(box: Make, tmp_path: Path) -> None:
    """The container stays, with the reason on `/status` and in the health check, which no longer waits."""
    bad = Path(tempfile.mkdtemp(prefix="devpi-sidecar-tests-")) / "backup.bz2"
    try:
        bad.parent.chmod(0o755)
        bad.write_bytes(b"this is no archive")
        run = box("--volume", f"{bad}:/devpi-init.d/backup.bz2:ro").start()
        wait_for(lambda: run.get("/status").json["phase"] == "failed", "the failure", 60)
        assert "tar archive" in run.get("/status").json["import"]["error"]["reason"]
        run.wait_health("unhealthy", 120)
        assert "tar archive" in run.state["Health"]["Log"][-1]["Output"]
        waited = run.exec("sidecar", "healthcheck", "--wait", check=False)
        assert (1, True) == (waited.returncode, "tar archive" in waited.stdout)
        assert 0 == run.stop()
    finally:
        shutil.rmtree(bad.parent)


def test_the_web_interface(box: Make, web_image: str, shared_folder: Path) -> None:
    """`devpi-web` serves its pages, renders a description, highlights its code, and finds what was uploaded."""
    web = (
        box(*LOCKED_DOWN, "--volume", f"{shared_folder}:/dist:ro", image=web_image, flags=NO_MIRROR)
        .start()
        .wait_ready()
    )
    assert WEB_IMAGE == web_image
    about = "Description-Content-Type: text/x-rst\n\nGreeting\n========\n\n.. code-block:: python\n\n"
    about += "   def hello(): return 1\n"
    name, content = exported.wheel("greeting", "1.0", metadata=f"Summary: Says a peculiarword\n{about}")
    (shared_folder / name).write_bytes(content)
    web.exec("devpi", "use", "http://localhost:3141")
    web.exec("devpi", "login", "root", "--password", web.claim())
    web.exec("devpi", "index", "--create", "dev", "bases=")
    web.exec("devpi", "use", "root/dev")
    web.exec("devpi", "upload", f"/dist/{name}")
    page = request(f"{web.devpi}/root/dev/greeting/1.0", accept="text/html")
    assert 200 == page.status
    assert b"<h1>" in page.body or b"Greeting" in page.body
    assert b"hello" in page.body
    wait_for(
        lambda: b"greeting" in request(f"{web.devpi}/+search?query=peculiarword", accept="text/html").body,
        "the find",
        60,
    )
    assert not web.state["OOMKilled"]


def test_an_import_is_ready_before_it_is_searchable(box: Make, web_image: str, shared_folder: Path) -> None:
    """devpi-web indexes an import while devpi-server serves; `/status` shows what is left of it."""
    exported.pack(exported.write(shared_folder / "export", projects=300), shared_folder / "init.d" / "backup.tar.gz")
    mount = f"{shared_folder / 'init.d'}:/devpi-init.d:ro"
    web = box("--env", "SIDECAR_MONITOR_INTERVAL=0.5", "--volume", mount, image=web_image).start().wait_ready()
    told: list[dict[str, Any]] = []

    def is_done() -> bool:
        backlog = web.get("/status").json["devpi"]["backlog"]
        if backlog is None:  # the monitor has not asked yet
            return False
        told.append(backlog)
        return {0} == set(backlog.values())

    wait_for(is_done, "the end of the backlog", 120)
    assert all(isinstance(number, int) for backlog in told for number in backlog.values())
    assert max(backlog["search_index"] for backlog in told) > 0, "it was searchable before it was ready"
    found = request(f"{web.devpi}/+search?query=mass-0299", accept="text/html").body
    assert b"mass-0299" in found


def test_a_command_in_place_of_flags(image: str) -> None:
    """devpi's own tools, and any other command, run as the container's command."""
    assert "devpi-client" in docker("run", "--rm", image, "devpi", "--version").stdout
    assert "sidecar" in docker("run", "--rm", image, "sidecar", "version").stdout
    missing = docker("run", "--rm", image, "sh", check=False)
    assert 127 == missing.returncode
    assert "can't run 'sh'" in missing.stderr
