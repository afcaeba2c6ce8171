"""A container's own network, which is removed when the container's process ends, as by a container engine.

Requires root and iproute2; without them the tests are skipped, and fail in CI.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import needs
from tests.support.container import ENTRYPOINT, Container


class Network:
    """A network namespace, and a pair of interfaces between it and the tests."""

    def __init__(self) -> None:
        number = os.getpid() % 2**14  # workers of one run have different ones
        self.namespace = f"devpi-sidecar-test-{number}"
        self.interface = f"dv{number}"
        self.outside = f"198.19.{number >> 6}.{(number & 63) * 4 + 1}"
        self.inside = f"198.19.{number >> 6}.{(number & 63) * 4 + 2}"

    @property
    def command(self) -> tuple[str, ...]:
        """A `Container.command`: the entrypoint in the namespace; the container's pid is the sidecar's."""
        return ("ip", "netns", "exec", self.namespace, *ENTRYPOINT)

    @property
    def flags(self) -> tuple[str, ...]:
        """devpi-server's flags."""
        return ("--host", self.inside, "--port", "0", "--no-root-pypi", "--offline-mode")

    def make(self) -> None:
        """Create the pair, with an address for each end."""
        ip("netns", "add", self.namespace)
        ip("link", "add", self.interface, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        ip("address", "add", f"{self.outside}/30", "dev", self.interface)
        ip("link", "set", self.interface, "up")
        for arguments in (f"address add {self.inside}/30 dev eth0", "link set eth0 up", "link set lo up"):
            ip("-netns", self.namespace, *arguments.split())

    def cut(self) -> None:
        """Drop all traffic in both directions without notifying either end."""
        ip("link", "set", self.interface, "down")

    def remove_with(self, container: Container) -> None:
        """Remove the interfaces as soon as the container's process has ended."""
        process = container.process
        assert process is not None

        def remove() -> None:
            process.wait()
            self._remove_interfaces()  # `remove` may have been faster

        threading.Thread(target=remove, daemon=True).start()

    @property
    def exists(self) -> bool:
        """Whether the interfaces still exist."""
        return Path("/sys/class/net", self.interface).exists()

    def remove(self) -> None:
        """Remove everything that exists."""
        self._remove_interfaces()
        subprocess.run(["ip", "netns", "delete", self.namespace], capture_output=True, check=False)

    def _remove_interfaces(self) -> None:
        subprocess.run(["ip", "link", "delete", self.interface], capture_output=True, check=False)


def ip(*arguments: str) -> None:
    """Run iproute2's `ip`, which must succeed."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"


@contextmanager
def network() -> Iterator[Network]:
    """A network, created and removed. Skips if that is impossible; in CI that is a failure."""
    needs.root("make a network namespace")
    needs.program("ip", "iproute2")
    made = Network()
    try:
        try:
            made.make()
        except AssertionError as error:
            needs.not_tested(f"no network namespace can be made here: {error}")
        yield made
    finally:
        made.remove()
