"""Names of environment variables: the image's own, those of Kubernetes, and similar names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

DEVPI_CLIENT = frozenset({"DEVPI_CLIENTDIR", "DEVPI_INDEX", "DEVPI_USER"})
"""Variables of devpi-client, which is in the image, too."""

_OURS = ("SIDECAR_", "DEVPI_")
_DEVPI_SERVERS = "DEVPISERVER_"
_PREFIX = re.compile(r"SIDECAR_|DEVPISERVER_|DEVPI_SERVER_|DEVPI_")
_SERVICE = re.compile(r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.ASCII)
_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S*", re.ASCII)
_ELSEWHERE = {
    "DEVPI_ROOT_PASSWORD": "DEVPI_PASSWORD",
    "DEVPI_ROOT_PASSWORD_FILE": "DEVPI_PASSWORD_FILE",
    "DEVPI_ROOT_PASSWD": "DEVPI_PASSWORD",
}
"""Names of other images, whose letters are nearer to another setting."""
_LONGEST = 100
"""Characters of a name that are compared."""
_ALIKE = 0.7
"""The least similarity of two names without their prefixes; 1 is equality. `PASSWD` and `PASSWORD` have 0.86."""
_ALIKE_AS_A_WHOLE = 0.95
"""The least similarity of two names with their prefixes, without underscores, as `DEVPI_SERVER_DIR`."""


def is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes set this variable, for a Service named `devpi`, `sidecar-…` and the like.

    https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
    """
    return _SERVICE.fullmatch(name) is not None or (name.endswith("_PORT") and is_service_address(value))


def is_service_address(value: str) -> bool:
    """Whether this looks like Kubernetes' value of `NAME_PORT`: `tcp://10.0.0.1:3141`."""
    return _ADDRESS.fullmatch(value) is not None


def ours(environ: Mapping[str, str], known: Iterable[str]) -> list[str]:
    """The names with the prefix of a setting, in any case, that are not in `known`."""
    return _others(environ, _OURS, {*known, *DEVPI_CLIENT})


def devpi_servers(environ: Mapping[str, str], known: Iterable[str]) -> list[str]:
    """The names with the prefix of devpi-server's options, in any case, that are not in `known`."""
    return _others(environ, (_DEVPI_SERVERS,), set(known))


def _others(environ: Mapping[str, str], prefixes: tuple[str, ...], known: set[str]) -> list[str]:
    return sorted(
        name
        for name, value in environ.items()
        if name.upper().startswith(prefixes) and name not in known and not is_service_link(name, value)
    )


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name in `known` that is most similar to `name`; None: none is similar."""
    if (meant := _ELSEWHERE.get(name)) is not None and meant in known:
        return meant
    from difflib import SequenceMatcher  # here, to keep each start fast

    def ratio(one: str, other: str) -> float:
        return SequenceMatcher(None, one, other, autojunk=False).ratio()

    def likeness(other: str) -> tuple[float, float]:
        """The similarity without prefixes, which would make all names of a family similar; then with them."""
        rest = ratio(_PREFIX.sub("", name, count=1), _PREFIX.sub("", other, count=1))
        whole = ratio(name.replace("_", ""), other.replace("_", ""))
        return (max(rest, whole) if whole >= _ALIKE_AS_A_WHOLE else rest), whole

    name = name[:_LONGEST].upper()
    ranked = sorted(((likeness(other), other) for other in known), reverse=True)
    return ranked[0][1] if ranked and ranked[0][0][0] >= _ALIKE else None
