"""`sidecar.core.surroundings`: what runs the container, and the commands to use outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.core import surroundings
from sidecar.core.surroundings import Surroundings

ID = "70c59b52664eb2a06b6e548e7ca9c751d7b5a9256af28f3f59630cc8ababc776"
DOCKER = f"""\
1213 1212 0:52 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
1233 1210 8:1 /data/docker/containers/{ID}/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/sda1 rw
1234 1210 8:1 /data/docker/containers/{ID}/hostname /etc/hostname rw,relatime - ext4 /dev/sda1 rw
"""
PODMAN = f"""\
712 690 0:24 /containers/storage/overlay-containers/{ID}/userdata/hostname /etc/hostname rw,nosuid - tmpfs tmpfs rw
"""


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replaces the kernel's list of mounts and the host name."""
    monkeypatch.setattr(surroundings, "_MOUNTS", tmp_path / "mountinfo")
    monkeypatch.setattr(surroundings, "_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setattr(surroundings, "_HOSTS", tmp_path / "hosts")
    monkeypatch.setattr(surroundings.socket, "gethostname", lambda: "host-1")
    return tmp_path / "mountinfo"


@pytest.mark.parametrize(("content", "runner"), [(DOCKER, "docker"), (PODMAN, "podman")])
def test_in_a_container(mounts: Path, content: str, runner: str) -> None:
    """The id is found in the files that the engine mounts, whatever the host name is."""
    mounts.write_text(content)
    around = surroundings.look(in_kubernetes=False)
    assert (runner, "70c59b52664e", "host-1") == (around.runner, around.container, around.host)
    assert f"{runner} restart 70c59b52664e" == around.restart
    assert f"{runner} rm --force 70c59b52664e" == around.remove
    assert f"{runner} exec 70c59b52664e sidecar token" == around.inside("sidecar token")


def test_in_a_pod(mounts: Path) -> None:
    """The pod's name, and its namespace if it is known."""
    mounts.write_text(DOCKER)
    around = surroundings.look(in_kubernetes=True)
    assert ("kubectl delete pod host-1", None) == (around.restart, around.remove)
    assert "kubectl exec host-1 -- sidecar token" == around.inside("sidecar token")
    (mounts.parent / "namespace").write_text("packages\n")
    around = surroundings.look(in_kubernetes=True)
    assert "kubectl delete pod host-1 --namespace packages" == around.restart
    assert "kubectl exec host-1 --namespace packages -- sidecar token" == around.inside("sidecar token")
    (mounts.parent / "namespace").write_text("$(id)")
    assert surroundings.look(in_kubernetes=True).namespace is None


def test_in_a_pod_with_the_network_of_its_node(mounts: Path) -> None:
    """The host name is the node's, so the pod's name is unknown."""
    (mounts.parent / "hosts").write_text("# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n")
    around = surroundings.look(in_kubernetes=True)
    assert ("host-1", "kubectl delete pod POD") == (around.host, around.restart)


def test_nobody_known() -> None:
    """There is no restart command, and other commands are unchanged."""
    around = Surroundings("host-1")
    assert (None, None, "sidecar token") == (around.restart, around.remove, around.inside("sidecar token"))
    assert "docker restart CONTAINER" == Surroundings("host-1", "docker").restart
