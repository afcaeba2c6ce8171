"""Parsers for the values of settings.

Each returns the value, or raises ValueError with two arguments: what is wrong with the text, and what to use instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PASSWORD_MAX = 1024
"""Characters of a password, which devpi hashes at every check."""
NAME_MAX = 64
"""Characters of an instance's name."""
UPSTREAM_PASSWORD_MAX = 16_384
"""Characters of a password for an upstream: those of cloud registries are tokens of some thousands."""
TOKEN_MIN = 16
TOKEN_MAX = 1024
"""Characters of an admin token."""


def password(text: str) -> None:
    """A password: not empty, printable, of a length that devpi can hash."""
    if not text:
        raise ValueError("is empty", "set a password, or unset the variable to have one generated")
    if len(text) > PASSWORD_MAX:
        raise ValueError(f"has {len(text)} characters", f"use at most {PASSWORD_MAX}")
    if not text.isprintable():
        raise ValueError("has control or unprintable characters", "use printable characters only")


def token(text: str) -> None:
    """A bearer token (RFC 6750's characters), too long to be guessed."""
    if not text:
        raise ValueError("is empty", "set a token, or unset the variable to have one generated")
    if not TOKEN_MIN <= len(text) <= TOKEN_MAX:
        raise ValueError(f"has {len(text)} characters", f"use {TOKEN_MIN} to {TOKEN_MAX}")
    if not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", text):
        raise ValueError(
            "has characters that a bearer token can't have",
            "use letters, digits and -._~+/= (for example: openssl rand -hex 32)",
        )


def upstream_password(text: str) -> None:
    """A password or token for an upstream: not empty, printable."""
    if not text:
        raise ValueError("is empty", "set a password, or unset the variable")
    if len(text) > UPSTREAM_PASSWORD_MAX:
        raise ValueError(f"has {len(text)} characters", f"use at most {UPSTREAM_PASSWORD_MAX}")
    if not text.isprintable():
        raise ValueError("has control or unprintable characters", "use printable characters only")


class Upstream(NamedTuple):
    """The URL of an index, split."""

    url: str
    """Without credentials, and with a slash at its end."""
    user: str | None
    password: str | None
    """Of `user`; None: the URL has none."""

    def __repr__(self) -> str:
        return f"Upstream({self.url!r})"


def upstream(text: str) -> Upstream:
    """The URL of an index over HTTP or HTTPS, which may have percent-encoded credentials."""
    from urllib.parse import urlsplit  # here, to keep each start fast

    example = "https://USER:PASSWORD@pypi.corp/, percent-encoded" if "@" in text else "https://index.example/simple/"
    problem = ValueError("not an http or https URL", f"a URL such as {example}")
    if not re.fullmatch(r"[!-~]+", text):
        raise problem
    try:
        parts = urlsplit(text)
        at, number = parts.hostname, parts.port
    except ValueError:  # an invalid port or IPv6 address
        raise problem from None
    if parts.scheme not in {"http", "https"} or not at or number == 0:
        raise problem
    if parts.query or parts.fragment or text.endswith(("?", "#")):
        raise ValueError(
            "a URL with a query or a fragment", "a URL without ? and # (percent-encode those of a password)"
        )
    if "@" in parts.path:
        raise ValueError("a URL with @ in its path", "percent-encoded credentials (%2F for a slash, %40 for @)")
    if ":" in at:
        at = f"[{at}]"
    elif not re.fullmatch(r"[a-z0-9_.-]+", at):
        raise problem
    netloc = at if number is None else f"{at}:{number}"
    user, password = _credentials(parts.username, parts.password)
    return Upstream(f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}/", user, password)


def _credentials(user: str | None, secret: str | None) -> tuple[str | None, str | None]:
    """Decode the credentials of a URL. Raises ValueError, without them."""
    from urllib.parse import unquote

    if not user and not secret:
        return None, None
    try:
        user, secret = unquote(user or "", errors="strict"), unquote(secret or "", errors="strict")
    except UnicodeDecodeError:
        raise ValueError("a URL with credentials that are not UTF-8", "percent-encoded UTF-8") from None
    if not user or ":" in user or not (user + secret).isprintable() or len(secret) > UPSTREAM_PASSWORD_MAX:
        hint = "a user without colon and a password, percent-encoded, of printable characters"
        raise ValueError("a URL with invalid credentials", hint)
    return user, secret or None


def hosts(text: str) -> tuple[str, ...]:
    """Host names, addresses and networks, separated by commas; without doubles, in lower case."""
    return tuple(dict.fromkeys(_host_or_network(each.strip()) for each in text.split(",") if each.strip()))


def _host_or_network(text: str) -> str:
    """A host name, an address or a network, each in its canonical form."""
    import ipaddress  # here, to keep each start fast

    hint = "host names, addresses and networks, separated by commas, such as pypi.corp,10.1.0.0/16"
    if "/" in text:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ValueError("not a list of hosts", hint) from None
        if ipaddress.ip_interface(text).ip != network.network_address:
            raise ValueError(f"not a list of hosts: {text} has bits after its prefix", str(network))
        return str(network)
    with suppress(ValueError):
        return str(ipaddress.ip_address(text))
    host = text.lower().removesuffix(".")
    labels = host.split(".")
    # a name whose last label is a number would be an address: https://url.spec.whatwg.org/#ends-in-a-number-checker
    if labels[-1].isdigit() or not all(re.fullmatch(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?", each) for each in labels):
        raise ValueError("not a list of hosts", hint)
    return host


def name(text: str) -> str:
    """A display name: one line, at most as long as a host name."""
    if len(text) > NAME_MAX or not text.isprintable() or "/" in text:
        raise ValueError("not a name", f"up to {NAME_MAX} printable characters without /")
    return text


def absolute_path(text: str) -> Path:
    """An absolute path."""
    path = Path(text)
    if "\0" in text or not path.is_absolute():
        raise ValueError("not an absolute path", "a path that begins with /")
    return path


def host(text: str) -> str:
    """An address or a host name to listen on."""
    if not re.fullmatch(r"[A-Za-z0-9_.:%-]+", text):
        raise ValueError("not an address or host name", "an address such as 0.0.0.0, 127.0.0.1 or ::")
    return text


def port(text: str) -> int:
    """A TCP port; 0: any free port."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise ValueError("not a port", "a number from 1 to 65535 (0: any free port)")
    return int(text)


def fixed_port(text: str) -> int:
    """A TCP port other than 0."""
    if (number := port(text)) == 0:
        raise ValueError("not a port", "a number from 1 to 65535")
    return number


def count(text: str) -> int:
    """A positive whole number."""
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) == 0:
        raise ValueError("not a positive whole number", "a number such as 1000")
    return int(text)


_SIZE_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE_UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def size(text: str) -> int:
    """Bytes, also as `8Gi` or `500M`."""
    match = re.fullmatch(r"([0-9]{1,18}) ?(|[KMGT]i?)B?", text)
    if not match:
        raise ValueError("not a size", "bytes, or a number with K, M, G, T, Ki, Mi, Gi or Ti, such as 8Gi")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def positive_size(text: str) -> int:
    """A size of more than 0 bytes."""
    if (number := size(text)) == 0:
        raise ValueError("not a positive size", "more than 0 bytes")
    return number


_DURATION_UNITS = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(text: str) -> float:
    """Seconds, also as `90s`, `5m`, `24h` or `2d`."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?(ms|[smhd]?)", text)
    if not match:
        raise ValueError("not a duration", "seconds, or a number with ms, s, m, h or d, such as 90s or 24h")
    return float(match[1]) * _DURATION_UNITS[match[2]]


def positive_duration(text: str) -> float:
    """A duration of more than 0 seconds."""
    if (seconds := duration(text)) <= 0:
        raise ValueError("not a positive duration", "more than 0 seconds")
    return seconds


def switch(text: str) -> bool:
    """True or false."""
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"0", "false", "no", "off"}:
        return False
    raise ValueError("neither true nor false", "true or false")


def choice(*allowed: str) -> Callable[[str], str]:
    """One of a few words."""

    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError("not a supported value", " or ".join(allowed))
        return text.lower()

    return parse


def level(text: str) -> str:
    """A level of `logging`, in upper case."""
    return choice("debug", "info", "warning", "error")(text).upper()
