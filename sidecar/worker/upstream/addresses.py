"""The addresses that a mirror may connect to: an upstream must not lead devpi-server into the network behind it."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from sidecar.worker.upstream.causes import Cause, UpstreamFault, printable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
AddressClass = Literal["public", "private", "loopback", "link-local", "metadata", "never"]

METADATA = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254",  # AWS, Azure, Google Cloud, OpenStack, …
            "169.254.170.2",  # AWS ECS: credentials of a task
            "100.100.100.200",  # Alibaba Cloud
            "168.63.129.16",  # Azure: the host's agent
            "fd00:ec2::254",  # AWS
            "fd20:ce::254",  # Google Cloud
        ),
    )
)
"""Services of clouds that hand out credentials to everybody who can connect."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
_REMEMBERED = 60.0
"""Seconds for which the classes of the index's own host are remembered."""


def parse_address(host: str) -> Address | None:
    """Return the address that `host` is a literal of, also in the old forms (`127.1`); None: it is a name."""
    try:
        return ipaddress.ip_address(host.strip("[]").rstrip("."))
    except ValueError:
        pass
    host = host.rstrip(".")
    if host[:1].isdigit():
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, UnicodeError, ValueError):
            pass
    return None


def unwrap(address: Address) -> Address:
    """Return the IPv4 address inside an IPv6 address that reaches it (mapped, 6to4, Teredo, NAT64)."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address.teredo is not None:
            return address.teredo[1]
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def classify(address: Address) -> AddressClass:
    """Return the class of an address."""
    address = unwrap(address)
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        address = ipaddress.IPv6Address(int(address))
    if address in METADATA:
        return "metadata"
    if address.is_loopback:
        return "loopback"
    if address.is_link_local:
        return "link-local"
    if address.is_multicast or address.is_unspecified or address.is_reserved or address in _THIS_NETWORK:
        return "never"
    if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:
        return "private"
    return "public" if address.is_global else "private"


class AddressPolicy:
    """Decides which addresses one mirror may connect to. Thread-safe.

    Public addresses always; metadata services, multicast and reserved addresses never; loopback, link-local and private
    ones if the index's own host resolves into the same class, or if the host or address is allowed by name.
    """

    def __init__(self, own_host: str, allow: Iterable[str], resolve: Callable[[str], Sequence[str]]) -> None:
        """`own_host`: of the index's URL; `allow`: names, addresses and networks; `resolve`: may block, and raise."""
        self._own_host = _normalize(own_host)
        self._resolve = resolve
        self._names: set[str] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for entry in allow:
            try:
                self._networks.append(ipaddress.ip_network(entry.strip().strip("[]"), strict=False))
            except ValueError:
                self._names.add(_normalize(entry))
        self._lock = threading.Lock()
        self._own_classes: frozenset[AddressClass] = frozenset()
        self._own_until = 0.0

    def permitted(self, host: str, addresses: Iterable[str]) -> list[str]:
        """Return those of a host's addresses that may be connected to. May resolve the index's own host.

        Raises UpstreamFault (`forbidden`) if there is none.
        """
        good: list[str] = []
        refused: tuple[str, AddressClass] | None = None
        for text in addresses:
            address = parse_address(text)
            if address is None:
                continue
            if self._permits(_normalize(host), address):
                good.append(text)
            else:
                refused = (text, classify(address))
        if not good:
            raise UpstreamFault(_forbidden(host, refused))
        return good

    def check_literal(self, host: str) -> None:
        """Check a host that a proxy resolves: only what needs no resolution. Raises UpstreamFault (`forbidden`)."""
        address = parse_address(host)
        if address is not None:
            self.permitted(host, [str(address)])
        elif _normalize(host) == "localhost" or _normalize(host).endswith(".localhost"):
            self.permitted(host, ["127.0.0.1"])

    def decides_alone(self, host: str) -> bool:
        """Return whether a literal address is decided without resolving the index's own host."""
        address = parse_address(host)
        return address is not None and (
            classify(address) in ("public", "metadata", "never")
            or _normalize(host) == self._own_host
            or parse_address(self._own_host) is not None
        )

    def _permits(self, host: str, address: Address) -> bool:
        kind = classify(address)
        if kind in ("metadata", "never"):
            return False
        if kind == "public" or host == self._own_host or host in self._names:
            return True
        inner = unwrap(address)
        if any(each in network for network in self._networks for each in (address, inner)):
            return True
        return kind in self._classes_of_own_host()

    def _classes_of_own_host(self) -> frozenset[AddressClass]:
        with self._lock:
            if time.monotonic() < self._own_until:
                return self._own_classes
        try:
            literal = parse_address(self._own_host)
            texts = [str(literal)] if literal is not None else self._resolve(self._own_host)
            found = [address for address in map(parse_address, texts) if address is not None]
        except (OSError, UnicodeError):
            return frozenset()  # unknown: not allowed, and not remembered
        classes = frozenset(classify(address) for address in found)
        with self._lock:
            self._own_classes, self._own_until = classes, time.monotonic() + _REMEMBERED
        return classes


def _normalize(host: str) -> str:
    return host.strip().strip("[]").rstrip(".").lower()


def _forbidden(host: str, refused: tuple[str, AddressClass] | None) -> Cause:
    name = printable(host)
    if refused is None:
        return Cause("name", f"{name} has no address", "check the host in the URL, and this machine's DNS")
    address, kind = refused
    shown = name if parse_address(host) is not None else f"{name} ({printable(address)})"
    if kind in ("metadata", "never"):
        words = "a metadata service" if kind == "metadata" else "not a host's address"
        return Cause("forbidden", f"{shown} is {words}", "check what the upstream links and redirects to")
    return Cause(
        "forbidden",
        f"{shown} is a {kind} address, and the mirror's own host is not",
        f"if the upstream may lead there, add {name} to DEVPI_MIRROR_ALLOW",
    )
