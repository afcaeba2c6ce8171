"""Many real clients, each request with user and password: all succeed, and none is refused even once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.packages import Package, wheel
from testbed.sampling import RssWatch
from tests.support.container import Container, call_devpi, cleared_away, login_token, make_index, upload_form

pytestmark = pytest.mark.alone

CROWD = 20
PACKAGES = 50
PATIENCE = 300.0
"""Seconds for one client; 20 of them share the machine."""
UV = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}") or "uv"


def of(user: str) -> str:
    """Return a user's password."""
    return f"päss of {user}"


@dataclass
class Index:
    """root/dev, with `PACKAGES` wheels."""

    container: Container
    packages: list[Package]

    def simple(self, user: str) -> str:
        """Return its URL, as many users write it."""
        secret = of(user).replace("ä", "%C3%A4").replace(" ", "%20")
        return f"{self.container.devpi.replace('://', f'://{user}:{secret}@')}/root/dev/+simple/"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """Assert that no password of its users was checked yet."""
    with cleared_away(Container(tmp_path_factory.mktemp("index"), env={"DEVPI_PASSWORD": of("root")})) as c:
        c.start().wait_ready()
        token = login_token(c.devpi, of("root"))
        users = ["uv0", *(f"{tool}{number}" for tool in ("pip", "twine") for number in range(CROWD + 1))]
        for user in users:
            assert call_devpi(f"{c.devpi}/{user}", "PUT", {"password": of(user)}, token=token).status == 201
        url = make_index(c.devpi, token)
        acl = {"acl_upload": ["root", *users], "volatile": True, "bases": []}
        assert call_devpi(url, "PATCH", acl, token=token).status == 200
        packages = [wheel(f"package{number}", "1.0", number) for number in range(PACKAGES)]
        for each in packages:
            body, kind = upload_form(each.name, each.content)
            body = body.replace(f"{each.name}-1.0.tar.gz".encode(), each.filename.encode()).replace(
                b"\r\n\r\nsdist\r\n", b"\r\n\r\nbdist_wheel\r\n"
            )
            assert call_devpi(f"{url}/", "POST", body, token=token, kind=kind).status == 200
        yield Index(c, packages)


def run(command: list[str | Path], home: Path, **environ: str) -> None:
    """Run one client to its exit; it must succeed."""
    home.mkdir(parents=True)
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "NO_PROXY": "*", "LANG": "C.UTF-8", **environ}
    out = home / "out.txt"
    with out.open("wb") as log:
        done = subprocess.run(command, cwd=home, env=env, stdout=log, stderr=log, timeout=PATIENCE, check=False)
    assert done.returncode == 0, out.read_text(errors="replace")


def crowd(client: Callable[[int], None]) -> None:
    """Run `CROWD` clients at once."""
    with ThreadPoolExecutor(CROWD) as pool:
        for done in [pool.submit(client, number) for number in range(CROWD)]:
            done.result()


def user_of(tool: str, whose: str, number: int) -> str:
    """One for all clients, or one each; no two tools have the same."""
    return f"{tool}{0 if whose == 'one' else number + 1}"


@pytest.fixture(autouse=True)
def bounded(index: Index) -> Iterator[None]:
    """devpi-server's memory stays constant with any number of clients, and none was refused, not even with a retry."""
    with RssWatch(index.container.devpi_pid, 0.01) as memory:
        yield
    assert "requests rejected" not in index.container.log
    assert max(memory.values) < 160 * 2**20


@pytest.mark.parametrize("round_", [1, 2])
def test_uv_installs_fifty_packages(index: Index, tmp_path: Path, round_: int) -> None:
    """It requests all of them at once."""
    names = [each.name for each in index.packages]
    options = ("--no-cache", "--no-config", "--python", sys.executable, "--target", str(tmp_path / "installed"))
    run([UV, "pip", "install", *options, "--index-url", index.simple("uv0"), *names], tmp_path / "home")
    assert {f"{name}.py" for name in names} <= {path.name for path in (tmp_path / "installed").iterdir()}


@pytest.mark.parametrize(("round_", "whose"), [(1, "one"), (1, "each"), (2, "each")])
def test_twenty_times_pip(index: Index, tmp_path: Path, whose: str, round_: int) -> None:
    """Of one user, or of a user each."""
    pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "download", "--no-cache-dir"]

    def client(number: int) -> None:
        url = index.simple(user_of("pip", whose, number))
        package = index.packages[number]
        run([*pip, "--no-deps", "--index-url", url, "-d", "out", package.name], tmp_path / str(number))
        assert (tmp_path / str(number) / "out" / package.filename).read_bytes() == package.content

    crowd(client)


@pytest.mark.parametrize(("round_", "whose"), [(1, "one"), (1, "each"), (2, "each")])
def test_twenty_times_twine(index: Index, tmp_path: Path, whose: str, round_: int) -> None:
    """The index is volatile, so that the second upload replaces the first one's files."""
    twine = [sys.executable, "-m", "twine", "upload", "--non-interactive", "--disable-progress-bar"]
    url = f"{index.container.devpi}/root/dev/"

    def client(number: int) -> None:
        user, package = user_of("twine", whose, number), wheel(f"upload{number}", "1.0", round_)
        file = tmp_path / package.filename
        file.write_bytes(package.content)
        own = {"TWINE_USERNAME": user, "TWINE_PASSWORD": of(user)}
        run([*twine, "--repository-url", url, file], tmp_path / str(number), **own)
        (link,) = call_devpi(f"{url}{package.name}").json["result"]["1.0"]["+links"]
        assert link["hash_spec"] == f"sha256={package.digest}"

    crowd(client)
