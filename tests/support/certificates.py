"""Real certificates for the tests of TLS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import trustme


@dataclass
class Pair:
    """A certificate and its key, as files."""

    cert: Path
    key: Path

    @property
    def settings(self) -> dict[str, str]:
        return {"SIDECAR_TLS_CERT": str(self.cert), "SIDECAR_TLS_KEY": str(self.key)}


@dataclass
class Authority:
    """A CA, with a folder for its certificates."""

    folder: Path
    ca: trustme.CA = field(default_factory=trustme.CA)

    @property
    def file(self) -> Path:
        """Its own certificate."""
        path = self.folder / "ca.pem"
        self.ca.cert_pem.write_to_path(path)
        return path

    def issue(self, name: str, *, ends: datetime | None = None) -> Pair:
        """A new certificate for localhost and 127.0.0.1."""
        made = self.ca.issue_cert("localhost", "127.0.0.1", not_after=ends)
        pair = Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        pair.cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        pair.key.touch(0o600)
        pair.key.write_bytes(made.private_key_pem.bytes())
        return pair

    def client(self, pair: Pair | None = None) -> ssl.SSLContext:
        """A client's context that trusts this CA, with a client certificate if `pair` is set."""
        context = ssl.create_default_context(cafile=self.file)
        if pair is not None:
            context.load_cert_chain(pair.cert, pair.key)
        return context


EXPIRED = datetime(2021, 1, 1, tzinfo=UTC)
