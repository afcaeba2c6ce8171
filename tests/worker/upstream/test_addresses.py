"""Which addresses a mirror may connect to."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest

from sidecar.worker.upstream.addresses import AddressPolicy, classify, parse_address
from sidecar.worker.upstream.causes import UpstreamFault


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("151.101.0.223", "public"),
        ("2a04:4e42::223", "public"),
        ("10.1.2.3", "private"),
        ("172.16.0.1", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "private"),
        ("fd12::1", "private"),
        ("127.0.0.1", "loopback"),
        ("127.9.9.9", "loopback"),
        ("::1", "loopback"),
        ("169.254.1.1", "link-local"),
        ("fe80::1", "link-local"),
        ("169.254.169.254", "metadata"),
        ("169.254.170.2", "metadata"),
        ("100.100.100.200", "metadata"),
        ("168.63.129.16", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("fd00:ec2::254%1", "metadata"),
        ("0.0.0.0", "never"),
        ("0.1.2.3", "never"),
        ("::", "never"),
        ("224.0.0.1", "never"),
        ("ff02::1", "never"),
        ("240.0.0.1", "never"),
        ("255.255.255.255", "never"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:169.254.169.254", "metadata"),
        ("2002:7f00:1::", "loopback"),
        ("64:ff9b::a9fe:a9fe", "metadata"),
        ("64:ff9b::9765:df", "public"),
        ("2001:0:4136:e378:8000:63bf:f5ff:fffe", "private"),
    ],
)
def test_the_class_of_an_address(address: str, expected: str) -> None:
    """IPv4 addresses inside IPv6 ones count as themselves."""
    assert expected == classify(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("3com.example", None),
        ("example", None),
    ],
)
def test_old_forms_of_addresses_are_addresses(text: str, expected: str | None) -> None:
    """The system's resolver takes them, and a proxy may."""
    found = parse_address(text)
    assert expected == (None if found is None else str(found))


def policy(own: str, *allow: str, resolves_to: Sequence[str] = ("151.101.0.223",)) -> AddressPolicy:
    return AddressPolicy(own, allow, lambda host: resolves_to)


def permits(found: AddressPolicy, host: str, address: str) -> bool:
    try:
        return found.permitted(host, [address]) == [address]
    except UpstreamFault as error:
        return error.cause.kind != "forbidden"


def test_the_own_host_and_its_class_may_be_private() -> None:
    """A mirror of an index in the own network has its files there; one of a public index has not."""
    inside = policy("nexus.internal", resolves_to=["10.0.0.5"])
    assert permits(inside, "nexus.internal", "10.0.0.5")
    assert permits(inside, "files.internal", "10.0.0.6")
    assert not permits(inside, "files.internal", "127.0.0.1")
    outside = policy("index.example")
    assert permits(outside, "files.example", "151.101.0.223")
    assert not permits(outside, "files.internal", "10.0.0.6")
    assert permits(policy("127.0.0.1"), "localhost", "::1")


def test_metadata_services_are_never_permitted() -> None:
    """Not even as the own host, or if they are allowed."""
    for own in ("169.254.169.254", "169.254.1.1", "10.0.0.1"):
        found = policy(own, "169.254.0.0/16", "metadata.internal", resolves_to=["169.254.169.254"])
        assert not permits(found, "metadata.internal", "169.254.169.254")
        assert not permits(found, own, "169.254.169.254")


@pytest.mark.parametrize("allow", ["files.internal", "FILES.internal.", "10.0.0.6", "10.0.0.0/24", "10.0.0.9/24"])
def test_names_addresses_and_networks_can_be_allowed(allow: str) -> None:
    """By DEVPI_MIRROR_ALLOW."""
    assert permits(policy("index.example", allow), "files.internal", "10.0.0.6")
    assert permits(policy("index.example", allow), "files.internal", "::ffff:10.0.0.6")
    assert not permits(policy("index.example", allow), "other.internal", "10.0.1.6")


def test_an_own_host_that_does_not_resolve_permits_nothing() -> None:
    """Unknown is not yes, and is not remembered."""
    answers: list[Sequence[str] | OSError] = [OSError("no DNS"), ["10.0.0.5"]]

    def resolve(host: str) -> Sequence[str]:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    found = AddressPolicy("nexus.internal", (), resolve)
    assert not permits(found, "files.internal", "10.0.0.6")
    assert permits(found, "files.internal", "10.0.0.6")


def test_of_several_addresses_only_permitted_ones_remain() -> None:
    """And the fault names the host, the address, and the setting."""
    found = policy("index.example")
    assert found.permitted("mixed", ["10.0.0.1", "151.101.0.223"]) == ["151.101.0.223"]
    with pytest.raises(UpstreamFault) as caught:
        found.permitted("evil.example", ["10.0.0.1"])
    assert "evil.example (10.0.0.1) is a private address" in caught.value.cause.reason
    assert "DEVPI_MIRROR_ALLOW" in caught.value.cause.hint


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "x.localhost", "[::1]", "2130706433", "169.254.169.254"])
def test_what_a_proxy_resolves_is_checked_where_it_needs_no_resolution(host: str) -> None:
    """Literal addresses, and this machine."""
    with pytest.raises(UpstreamFault):
        policy("index.example").check_literal(host)
    policy("index.example").check_literal("files.example")
