"""TLS of an upstream, right and wrong."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

import trustme

_EXPIRED = datetime(2021, 1, 1, tzinfo=UTC)
KINDS = ("trusted", "untrusted", "expired", "wrong name")
"""`trusted`: by a client that trusts the authority; `untrusted`: of another authority, as one that is self-signed."""


class Tls:
    """An authority, and servers' contexts for 127.0.0.1."""

    def __init__(self) -> None:
        self._trusted, self._other = trustme.CA(), trustme.CA()

    @property
    def authority(self) -> bytes:
        """The certificate to trust, as PEM."""
        return self._trusted.cert_pem.bytes()

    def context(self, kind: str) -> ssl.SSLContext:
        """Return the context of a server of this kind."""
        authority = self._other if kind == "untrusted" else self._trusted
        names = ["other.example.org"] if kind == "wrong name" else ["127.0.0.1", "localhost"]
        made = authority.issue_cert(*names, not_after=_EXPIRED if kind == "expired" else None)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        made.configure_cert(context)
        return context
