"""`docs/kubernetes.md`, run as it is written, from top to bottom, on a real node."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes import cluster
from tests.kubernetes.cluster import Site
from tests.support.container import login_token, make_index, upload, wait_for

pytestmark = pytest.mark.kubernetes

TEXT = (cluster.ROOT / "docs" / "kubernetes.md").read_text()


def sections() -> dict[str, list[str]]:
    """Return the shell blocks of each heading; subsections are separate."""
    parts = re.split(r"^##+ (.*)\n", TEXT, flags=re.MULTILINE)
    shell = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return {
        heading: found for heading, text in zip(parts[1::2], parts[2::2], strict=True) if (found := shell.findall(text))
    }


class Reader:
    """A user with a checkout and a cluster who types the documented commands."""

    def __init__(self, checkout: Path, kubeconfig: Path) -> None:
        self.checkout = checkout
        self.kubeconfig = kubeconfig
        self.typed: list[str] = []

    def type(self, heading: str, which: int = 0) -> str:
        """Run one block, and return its output."""
        block = sections()[heading][which]
        self.typed.append(block)
        return self.run(block)

    def run(self, block: str) -> str:
        """Run commands in a shell that exits at the first failure; return the output."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=self.checkout,
            env=os.environ | {"KUBECONFIG": str(self.kubeconfig)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def site(node: None, home: Path) -> Iterator[Site]:
    """The example's namespace, with volumes for its claims and for a second data volume."""
    found = Site.adopt("devpi", home)
    if found.get("namespace", "devpi").get("status", {}).get("phase") == "Active":
        pytest.fail("this cluster has a namespace `devpi`, which the documented commands would change")
    wait_for(lambda: not found.get("namespace", "devpi"), "the end of an earlier run's namespace", 90)
    for claim in ("data-devpi-0", "devpi-exports", "data-devpi-0-again"):
        found.volume(claim, as_claim=claim.removesuffix("-again"))
    yield found
    found.remove()
    found.gone()


@pytest.fixture
def reader(home: Path) -> Reader:
    """A reader with a `kubectl config` of their own."""
    cluster.copy_of_deploy(home)
    kubeconfig = home / "kubeconfig"
    kubeconfig.touch(0o600)
    kubeconfig.write_text(cluster.kubectl("config", "view", "--raw", "--flatten", "--minify").stdout)
    return Reader(home, kubeconfig)


def write_image(mine: Path) -> None:
    """Write what the document leaves to the reader's editor, and flags that keep devpi-server offline."""
    name, tag = cluster.image()["newName"], cluster.image()["newTag"]
    for file in (mine / "kustomization.yaml", mine / "load" / "kustomization.yaml"):
        text = re.sub(r"newName: \S+", f"newName: {name}", file.read_text())
        file.write_text(re.sub(r"newTag: \S+", f"newTag: {tag}", text))
    file = mine / "kustomization.yaml"
    flags = json.dumps([*cluster.FLAGS, "--outside-url"])
    file.write_text(file.read_text().replace('["--outside-url",', f"{flags[:-1]},"))


def test_every_command_of_the_document(site: Site, reader: Reader) -> None:
    """Install, claim once, look, back up, start again from the backup, restart; in the document's order."""
    reader.type("Install", 0)
    write_image(reader.checkout / "deploy" / "kubernetes" / "mine")
    reader.type("Install", 1)

    password = json.loads(reader.type("Claim root's password"))["password"]
    again = json.loads(reader.run(sections()["Claim root's password"][0]))
    assert (410, "127.0.0.1") == (again["status"], again["claimed_from"])
    site.wait_reachable()
    token = login_token(site.devpi, password)
    upload(make_index(site.devpi, token), token, "kept", b"content")

    said = reader.type("Check the status")
    assert "devpi-0" in said
    assert "ready" in said

    reader.type("Back up")
    with cluster.ended_pods_forgotten("devpi"):
        reader.type("Import a backup", 0)
        reader.type("Import a backup", 1)
        reader.type("Import a backup", 2)
        assert "completed" in site.sidecar("/status").body.decode()
        site.wait_reachable()
        assert 200 == site.login(password)
        assert 0 == site.container["restartCount"]
        reader.type("Node drains, upgrades, restarts")
    assert [block for found in sections().values() for block in found] == reader.typed
