"""What runs this container, as seen from inside, and the commands to restart it from outside."""

from __future__ import annotations

import contextlib
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_MOUNTS = Path("/proc/self/mountinfo")
_HOSTS = Path("/etc/hosts")
_OF_THE_NODE = "# Kubernetes-managed hosts file (host network)."
"""The first line of a pod's /etc/hosts if the pod uses its node's network, and so its node's host name."""
_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_CONTAINER = re.compile(r"/(overlay-)?containers/([0-9a-f]{64})/")
"""Where an engine keeps the /etc/hostname that it mounts into a container: `overlay-` is Podman's."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The engine or cluster that runs this, and the names to use there."""

    host: str
    """The host name: by default a container's id."""
    runner: Literal["docker", "podman", "kubernetes"] | None = None
    """None: not recognised, as on a plain machine."""
    container: str | None = None
    """The container's id, shortened as by `docker ps`; None: unknown."""
    pod: str = "POD"
    """The pod's name, or a placeholder in commands."""
    namespace: str | None = None
    """The pod's namespace; None: unknown."""

    @property
    def restart(self) -> str | None:
        """The command that restarts this; None: unknown."""
        match self.runner:
            case "kubernetes":
                return f"kubectl delete pod {self.pod} {self._option}".rstrip()
            case "docker" | "podman":
                return f"{self.runner} restart {self._container}"
            case None:
                return None

    def inside(self, command: str) -> str:
        """The command that runs `command` in this container from outside."""
        match self.runner:
            case "kubernetes":
                return f"kubectl exec {self.pod} {self._option}-- {command}"
            case "docker" | "podman":
                return f"{self.runner} exec {self._container} {command}"
            case None:
                return command

    @property
    def remove(self) -> str | None:
        """The command that removes the container but not its named volumes; None: there is none."""
        if self.runner not in ("docker", "podman"):
            return None
        return f"{self.runner} rm --force {self._container}"

    @property
    def _container(self) -> str:
        return self.container or "CONTAINER"

    @property
    def _option(self) -> str:
        return f"--namespace {self.namespace} " if self.namespace else ""


def look(*, in_kubernetes: bool) -> Surroundings:
    """Detect the surroundings of this process."""
    host = socket.gethostname()
    if in_kubernetes:
        pod = "POD" if _read(_HOSTS).startswith(_OF_THE_NODE) else host
        return Surroundings(host, "kubernetes", pod=pod, namespace=_first_line(_NAMESPACE))
    if found := _CONTAINER.search(_read(_MOUNTS)):
        return Surroundings(host, "podman" if found[1] else "docker", found[2][:12])
    if Path("/run/.containerenv").exists():
        return Surroundings(host, "podman")
    return Surroundings(host, "docker" if Path("/.dockerenv").exists() else None)


def _first_line(path: Path) -> str | None:
    line = _read(path).strip()
    return line if re.fullmatch(r"[a-z0-9-]{1,63}", line) else None


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="ascii", errors="replace")
    return ""
