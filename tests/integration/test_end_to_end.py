"""The whole story of a user who follows the README: with `devpi`, `pip`, `tar` and HTTP requests as of `curl`."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support import exported
from tests.support.container import TOKEN, Container, request, wait_for

Make = Callable[..., Container]


class Person:
    """A user with a shell and an own home, without this machine's configuration."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self.home = home
        self.clientdir = home / "client"

    def run(self, *command: str | Path) -> str:
        """Run a command, which must succeed; return its output."""
        done = subprocess.run(
            command,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "PIP_CONFIG_FILE": os.devnull,
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
                "no_proxy": "*",
            },
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def devpi(self, *arguments: str | Path) -> str:
        """Run the real client."""
        command, *rest = arguments
        return self.run(exported.BIN / "devpi", command, "--clientdir", self.clientdir, *rest)

    def install(self, devpi: str, index: str, package: str, into: str) -> dict[str, str]:
        """Run a real `pip install`; return the digests of the installed files."""
        url = f"{devpi}/{index}/+simple/"
        assert url.startswith("http://127.0.0.1:")
        only = ("--isolated", "--no-cache-dir", "--no-deps", "--index-url", url)
        self.run(exported.BIN / "pip", "install", *only, "--target", self.home / into, package)
        installed = exported.digests(self.home / into)
        return {path: digest for path, digest in installed.items() if "__pycache__" not in path}


def hashes(devpi: str, index: str, project: str) -> dict[str, str]:
    """Return the files of a project by name, with the digest of the real download."""
    versions = request(f"{devpi}/{index}/{project}", accept="application/json").json["result"]
    links = [link for version in versions.values() for link in version["+links"]]
    assert all(link["href"].startswith(devpi) for link in links)
    return {link["href"].rpartition("/")[2]: hashlib.sha256(request(link["href"]).body).hexdigest() for link in links}


def test_the_readme_s_story(container: Make, tmp_path: Path) -> None:
    """Start, claim once, log in, upload, install, stop, start; export, pack, import it into an empty one, install."""
    person = Person(tmp_path / "person")
    for name, content in (exported.wheel("greeting", "1.0", "HELLO = 'world'\n"), exported.sdist("greeting", "1.0")):
        (person.home / name).write_bytes(content)

    # start it, and claim the password, once
    first = container("first", flags=("--host", "127.0.0.1", "--port", "0", "--no-root-pypi", "--offline-mode"))
    first.start().wait_ready()
    assert "claimable" == first.status()["root_password"]["state"]
    claimed = request(first.url + "/bootstrap/root-password", "POST", token=TOKEN)
    assert 200 == claimed.status
    assert "root" == claimed.json["user"]
    password = claimed.json["password"]
    again = request(first.url + "/bootstrap/root-password", "POST", token=TOKEN)
    assert (410, "127.0.0.1") == (again.status, again.json["claimed_from"])
    assert password not in again.body.decode()
    assert password not in first.log

    # log in with the real client, create a user and an index, upload, install
    person.devpi("use", first.devpi)
    assert "logged in 'root'" in person.devpi("login", "root", "--password", password)
    person.devpi("user", "-c", "alice", "password=alice's own", "email=alice@example.com")
    person.devpi("index", "-c", "alice/dev", "bases=", "volatile=False")
    person.devpi("login", "alice", "--password", "alice's own")
    person.devpi("use", "alice/dev")
    person.devpi("upload", *sorted(person.home.glob("greeting-*")))
    files = hashes(first.devpi, "alice/dev", "greeting")
    assert {"greeting-1.0-py3-none-any.whl", "greeting-1.0.tar.gz"} == set(files)
    installed = person.install(first.devpi, "alice/dev", "greeting==1.0", "installed-first")
    assert "greeting.py" in installed

    # stop it, start it again: everything is still there
    assert 0 == first.stop()
    first.start().wait_ready()
    assert "claimed" == first.status()["root_password"]["state"]
    assert (200, 200) == (first.login("root", password), first.login("alice", "alice's own"))
    assert files == hashes(first.devpi, "alice/dev", "greeting")
    assert installed == person.install(first.devpi, "alice/dev", "greeting", "installed-again")

    # export that state, beside the running server, and pack it
    export = person.home / "export"
    exporting = first.run("devpi-export", str(export))
    assert 0 == exporting.returncode, exporting.stdout
    assert 200 == first.get("/readyz").status
    assert 0 == first.stop()
    second = container("second")
    second.init_dir.mkdir()
    backup = second.init_dir / "backup.bz2"
    person.run(sys.executable, "-m", "tarfile", "--create", backup, export.name)
    packed = hashlib.sha256(backup.read_bytes()).hexdigest()

    # start an empty one with it, follow the import, and install the same package from it
    states: list[str] = []

    def watch() -> bool:
        status = second.status()
        states.append(status["import"]["state"])
        return status["phase"] == "ready"

    second.start().wait_listening()
    wait_for(watch, "the import")
    imported = second.status()["import"]
    assert {"extracting", "loading", "installing", "pending"} & set(states), states
    assert "completed" == states[-1]
    assert [{"name": "backup.bz2", "bytes": backup.stat().st_size, "sha256": packed}] == imported["archives"]
    assert {"done": 2, "total": 2} == imported["files"]
    assert {"done": 1, "total": 1} == imported["projects"]
    assert {"done": 2, "total": 2} == imported["users"]
    assert packed == hashlib.sha256(backup.read_bytes()).hexdigest()
    assert "from_import" == second.status()["root_password"]["state"]
    assert (200, 200) == (second.login("root", password), second.login("alice", "alice's own"))
    assert files == hashes(second.devpi, "alice/dev", "greeting")
    assert installed == person.install(second.devpi, "alice/dev", "greeting==1.0", "installed-second")
    assert 0 == second.stop()
