"""How to reach devpi-server, from where the reader is."""

from __future__ import annotations

import re
from collections.abc import Hashable
from ipaddress import AddressValueError, IPv4Address
from urllib.parse import urlsplit

from sidecar.core.lifecycle import DevpiInfo, Phase, Snapshot

_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_URL = re.compile(r"https?://[A-Za-z0-9._~:/\[\]@%+-]{1,500}")
_NO_HOST = "http://HOST:"
"""How a URL begins if the host is unknown."""
_ORIGIN = re.compile(r"(https?)://(?:[^/@]*@)?(?:\[([^/\]]*)\]|([^/:\[\]]*))")


def use(snapshot: Snapshot, host: str) -> dict[str, Hashable]:
    """Return the values of the section of commands, for a browser that calls this server `host`."""
    if (devpi := _serving(snapshot)) is None:
        return {}
    url, guessed = _outside(devpi, host)
    if url is None:
        return {"commands": ()}
    return {
        "commands": (
            ("Log in", "in", f"devpi use {url}\ndevpi login root"),
            ("Create an index, once", "index", "devpi index --create dev"),
            ("Upload to it", "upload", "devpi use root/dev\ndevpi upload dist/*"),
            ("Install from it", "install", _install(url)),
        ),
        "guessed": guessed,
    }


def who(snapshot: Snapshot, name: str, host: str) -> dict[str, Hashable]:
    """Return this instance's name, and devpi-server's URL if it is known."""
    devpi = _serving(snapshot)
    url = _outside(devpi, host)[0] if devpi else None
    return {"name": name, "url": None if url and url.startswith(_NO_HOST) else url}


def _serving(snapshot: Snapshot) -> DevpiInfo | None:
    return snapshot.devpi if snapshot.phase in (Phase.LAUNCHING, Phase.READY) else None


def _install(url: str) -> str:
    """Return one command, on lines that fit. pip ignores plain HTTP from another machine without `--trusted-host`."""
    options = [f"--index-url {url}/root/dev/+simple/"]
    origin = _ORIGIN.match(url)
    name = (origin[2] or origin[3]) if origin else ""
    if origin and origin[1] == "http" and name.lower() not in ("localhost", "::1") and not _loopback(name):
        options.append(f"--trusted-host {name}")
    return " \\\n  ".join(["pip install PACKAGE", *options])


def _loopback(name: str) -> bool:
    try:
        return IPv4Address(name).is_loopback
    except AddressValueError:
        return False


def _outside(devpi: DevpiInfo, host: str) -> tuple[str | None, bool]:
    """Return devpi-server's URL, and whether it is guessed. Only a single word of a shell gets into a command."""
    if devpi.outside_url is not None and _URL.fullmatch(devpi.outside_url):
        return devpi.outside_url.rstrip("/"), False
    ports = [urlsplit(address).port for address in devpi.addresses if address.startswith("http")]
    if not ports:
        return None, False
    match = _HOST.fullmatch(host)
    return f"http://{match[1] if match else 'HOST'}:{ports[0]}", True
