"""The settings of devpi's mirrors. `settings` has all others."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sidecar.core import certificates, parsers
from sidecar.core.environment import Reader


@dataclass(frozen=True, slots=True)
class MirrorSettings:
    """Requests to the upstreams of devpi's mirrors, and the mirror `root/pypi`."""

    root_pypi: bool | None = None
    """Whether a new server has the index root/pypi (DEVPI_ROOT_PYPI); None: devpi's flags decide, it has."""
    url: str | None = None
    """The upstream of root/pypi (DEVPI_MIRROR_URL), without credentials and with a slash at its end; None: its own
    mirror_url."""
    user: str | None = field(default=None, repr=False)
    """Sent to the origin of `url` from the first request on (DEVPI_MIRROR_USER, or in DEVPI_MIRROR_URL). Only set if
    `url` is; may be a token."""
    password: str | None = field(default=None, repr=False)
    """DEVPI_MIRROR_PASSWORD, DEVPI_MIRROR_PASSWORD_FILE, or in DEVPI_MIRROR_URL. Only set if `user` is; None: empty."""
    ca: Path | None = None
    """A PEM file of CA certificates to trust too, which could be read at the start (DEVPI_MIRROR_CA)."""
    allow: tuple[str, ...] = ()
    """Host names, addresses and networks that are not public, and that any mirror may use (DEVPI_MIRROR_ALLOW). In
    lower case, as `ipaddress` writes them."""
    unknown: str = "ask"
    """As long as there is no list of projects: `ask` upstream for a name, or `wait` (DEVPI_MIRROR_UNKNOWN)."""
    max_page_bytes: int = 64 * 2**20
    """Largest page of a project, decompressed (DEVPI_MIRROR_MAX_PAGE_SIZE)."""
    max_list_bytes: int = 256 * 2**20
    """Largest list of projects, decompressed (DEVPI_MIRROR_MAX_LIST_SIZE)."""
    page_seconds: float = 60.0
    """Total time for one page (DEVPI_MIRROR_PAGE_TIMEOUT)."""
    list_seconds: float = 600.0
    """Total time for a list of projects (DEVPI_MIRROR_LIST_TIMEOUT)."""

    def as_json(self) -> dict[str, Any]:
        """Return all fields for `Serve.mirror`."""
        return {**asdict(self), "ca": None if self.ca is None else str(self.ca), "allow": list(self.allow)}


def from_reader(read: Reader) -> MirrorSettings:
    """Read the settings of mirrors. A problem never shows credentials."""
    base = MirrorSettings()
    upstream = read.value("DEVPI_MIRROR_URL", parsers.upstream, None)
    user = read.text("DEVPI_MIRROR_USER") or None
    password = read.secret("DEVPI_MIRROR_PASSWORD", parsers.upstream_password)
    if user is not None and (":" in user or not user.isprintable()):
        read.problem("DEVPI_MIRROR_USER", "has a colon or control characters", "set the name of the user only")
    _check_credentials(read, upstream, user, password)
    url = None
    if upstream is not None:
        url = upstream.url
        if upstream.user is not None:
            user, password = upstream.user, upstream.password
    ca = read.value("DEVPI_MIRROR_CA", parsers.absolute_path, base.ca)
    if ca is not None and (unusable := certificates.problem_with(ca)) is not None:
        read.problem("DEVPI_MIRROR_CA", *unusable)
    return MirrorSettings(
        root_pypi=read.value("DEVPI_ROOT_PYPI", parsers.switch, base.root_pypi),
        url=url,
        user=user,
        password=password,
        ca=ca,
        allow=read.value("DEVPI_MIRROR_ALLOW", parsers.hosts, base.allow),
        unknown=read.value("DEVPI_MIRROR_UNKNOWN", parsers.choice("ask", "wait"), base.unknown),
        max_page_bytes=read.value("DEVPI_MIRROR_MAX_PAGE_SIZE", parsers.positive_size, base.max_page_bytes),
        max_list_bytes=read.value("DEVPI_MIRROR_MAX_LIST_SIZE", parsers.positive_size, base.max_list_bytes),
        page_seconds=read.value("DEVPI_MIRROR_PAGE_TIMEOUT", parsers.positive_duration, base.page_seconds),
        list_seconds=read.value("DEVPI_MIRROR_LIST_TIMEOUT", parsers.positive_duration, base.list_seconds),
    )


def _check_credentials(read: Reader, upstream: parsers.Upstream | None, user: str | None, password: str | None) -> None:
    """Add a problem for credentials of an upstream that are incomplete or set twice.

    Without a URL they would go to whatever upstream root/pypi has, a new one to PyPI.
    """
    if user is None and password is None:
        return
    if user is not None:
        name = "DEVPI_MIRROR_USER"
    else:
        name = "DEVPI_MIRROR_PASSWORD" + ("_FILE" if read.environ.get("DEVPI_MIRROR_PASSWORD_FILE") else "")
    if not read.text("DEVPI_MIRROR_URL"):
        read.problem(name, "is set without DEVPI_MIRROR_URL", "set DEVPI_MIRROR_URL to the upstream that gets it")
    elif upstream is not None and upstream.user is not None:
        read.problem("DEVPI_MIRROR_URL", f"has credentials, and {name} is set", "remove the credentials from the URL")
    elif user is None:
        read.problem(name, "is set without DEVPI_MIRROR_USER", "set DEVPI_MIRROR_USER (for a token often __token__)")
