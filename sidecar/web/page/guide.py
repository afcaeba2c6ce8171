"""How to use devpi-server, from where the reader is: the commands to begin with, to be copied into a shell."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address
from urllib.parse import urlsplit

from sidecar.core.lifecycle import DevpiInfo, Phase, Snapshot
from sidecar.web.page import words

_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_URL = re.compile(r"https?://[A-Za-z0-9._~:/\[\]@%+-]{1,500}")
_NO_HOST = re.compile(r"http://HOST:")
"""A URL that nobody can follow."""
_ORIGIN = re.compile(r"(https?)://(?:[^/@]*@)?(?:\[([^/\]]*)\]|([^/:\[\]]*))")


def use(snapshot: Snapshot, host: str) -> str:
    """How to use it, from a browser that calls this server `host`; nothing, where devpi-server doesn't serve."""
    if snapshot.devpi is None or snapshot.phase not in (Phase.LAUNCHING, Phase.READY):
        return ""
    url, hint = _outside(snapshot.devpi, host)
    if url is None:
        return (
            "<h2>Use it</h2><p>devpi-server listens on a Unix socket, behind a proxy of yours. With"
            " <code>--outside-url</code> this page can say how to reach it.</p>"
        )
    return (
        "<h2>Use it</h2>"
        + _commands("Log in", "in", f"devpi use {url}", "devpi login root")
        + _commands("Make an index, once", "index", "devpi index --create dev")
        + _commands("Upload to it", "upload", "devpi use root/dev", "devpi upload dist/*")
        + _commands("Install from it", "install", *_install(url))
        + hint
    )


def who(snapshot: Snapshot, name: str, host: str) -> str:
    """What people call this instance, and a link to devpi-server, where that is known."""
    shown = f'<span class="name">{words.text(name)}</span>'
    if snapshot.devpi is None or snapshot.phase not in (Phase.LAUNCHING, Phase.READY):
        return shown
    url, _ = _outside(snapshot.devpi, host)
    if url is None or _NO_HOST.match(url):
        return shown
    address = words.text(url, 1000, tag=False)
    return f'{shown} <span>devpi: <a href="{address}/">{address}</a></span>'


def _commands(title: str, name: str, *commands: str) -> str:
    """Lines as long as they are, for a URL broken within a word is copied broken; so they can be scrolled."""
    lines = "\n".join(words.text(command, 1000, tag=False) for command in commands)
    return (
        f'<div class="commands"><h3 id="use-{name}">{title}</h3>'
        f'<button type="button" class="plain copy" aria-describedby="use-{name}">Copy</button>'
        f'<pre tabindex="0" role="region" aria-labelledby="use-{name}">{lines}</pre></div>'
    )


def _install(url: str) -> list[str]:
    """One command, on lines that fit. pip wants to be told of plain HTTP to another machine: else it ignores that."""
    options = [f"--index-url {url}/root/dev/+simple/"]
    origin = _ORIGIN.match(url)
    name = (origin[2] or origin[3]) if origin else ""
    if origin and origin[1] == "http" and name.lower() not in ("localhost", "::1") and not _loopback(name):
        options.append(f"--trusted-host {name}")
    *lines, last = ["pip install PACKAGE", *(f"  {option}" for option in options)]
    return [*(f"{line} \\" for line in lines), last]


def _loopback(name: str) -> bool:
    try:
        return IPv4Address(name).is_loopback
    except AddressValueError:
        return False


def _outside(devpi: DevpiInfo, host: str) -> tuple[str | None, str]:
    """devpi-server's URL, and what is to be said to it. Only what a shell takes for one word gets into a command."""
    if devpi.outside_url is not None and _URL.fullmatch(devpi.outside_url):
        return devpi.outside_url.rstrip("/"), ""
    ports = [urlsplit(address).port for address in devpi.addresses if address.startswith("http")]
    if not ports:
        return None, ""
    match = _HOST.fullmatch(host)
    name = match[1] if match else "HOST"
    return f"http://{name}:{ports[0]}", (
        '<p class="hint">Guessed from this page&rsquo;s address and devpi-server&rsquo;s own port. If clients reach it'
        " by another one, say so with <code>--outside-url</code>.</p>"
    )
